"""POST /build-preview and GET /preview/: what goes in, what comes out, and what is kept in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
import uvicorn
from httpx2 import AsyncClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from eventstore.categories.build import CATEGORY
from eventstore.errors import FoldstreamError, Forbidden
from eventstore.event import StreamId
from eventstore.states import States
from eventstore.store import replay
from eventstore.stores.memory import MemoryStore
from eventstore.stores.postgres import PostgresStore
from pipeline import Pipeline, PipelineSettings
from pipeline.deployers.local import CURRENT, previews, publish
from streaming.problem import on_foldstream_error, on_http_exception

PROBLEM = "application/problem+json"


class Site:
    """The pipeline's routes behind a real server. token: what a request must bring, if anything."""

    def __init__(self, url: str, store: Any, pipeline: Pipeline, client: AsyncClient) -> None:
        self.url, self.store, self.pipeline, self.client = url, store, pipeline, client
        self.token = ""

    async def post(self, body: Any, **headers: str) -> Any:
        if isinstance(body, (bytes, str)):
            return await self.client.post("/build-preview", content=body, headers=headers)
        return await self.client.post("/build-preview", json=body, headers=headers)

    async def raw(self, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """A GET of exactly this path: other clients tidy it before they send it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        status, *fields = head.decode("latin-1").split("\r\n")
        return int(status.split()[1]), {k.lower(): v for k, _, v in (field.partition(": ") for field in fields)}, body


@asynccontextmanager
async def serve(app: Starlette) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
        server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await asyncio.wait_for(running, 5)


def counter() -> Callable[[], str]:
    numbers = iter(range(1, 1000))
    return lambda: f"01JD{next(numbers):022d}"


@asynccontextmanager
async def open_site(store: Any, dsn: str, settings: PipelineSettings) -> AsyncIterator[Site]:
    pipeline = Pipeline(store, States(store), dsn, settings, name="worker-1")

    def allow(request: HTTPConnection, scope: str, stream: StreamId | None) -> None:
        assert (scope, stream) == ("write", None)
        if request.headers.get("authorization", "") != site.token:
            raise Forbidden("this needs a token")

    routes = pipeline.routes(mint=lambda stream: f"token-of-{stream}", new_id=counter(), allow=allow)
    handlers: Any = {FoldstreamError: on_foldstream_error, HTTPException: on_http_exception}
    async with serve(Starlette(routes=routes, exception_handlers=handlers)) as url, AsyncClient(base_url=url) as client:
        site = Site(url, store, pipeline, client)
        yield site


@pytest.fixture
async def site(store: PostgresStore, queue_database: str, settings: PipelineSettings) -> AsyncIterator[Site]:
    async with open_site(store, queue_database, settings) as site:
        yield site


@pytest.fixture
async def box(settings: PipelineSettings) -> AsyncIterator[Site]:
    """A site without a database, for what needs none."""
    async with open_site(MemoryStore(), "", settings) as site:
        yield site


@pytest.mark.req("S0-02", "S2-11")
async def test_a_prompt_gets_a_build_and_all_its_addresses(site: Site) -> None:
    answer = await site.post({"prompt": "  Create a todo app with dark mode ", "name": "Todo"})
    build = "01JD0000000000000000000001"
    base = "http://preview.test:8000"
    assert (answer.status_code, answer.json()) == (
        201,
        {
            "buildId": build,
            "jobId": build,
            "websocketUrl": "ws://preview.test:8000",
            "buildToken": f"token-of-build-{build}",
            "statusUrl": f"{base}/api/builds/{build}/status",
            "eventsUrl": f"{base}/api/builds/{build}/events",
            "streamUrl": f"{base}/events/{build}",
            "uiUrl": f"{base}/ui/runs/{build}",
        },
    )
    assert answer.headers["location"] == answer.json()["statusUrl"]
    assert answer.headers["cache-control"] == "no-store"
    [event] = await site.store.read(StreamId("build", build))
    assert event.type == "build_queued"
    data = {"prompt": "Create a todo app with dark mode", "name": "Todo", "worker": "web"}
    assert event.data == {**data, "message": "Waiting for a worker..."}


async def test_curl_calls_json_a_form(site: Site) -> None:
    sent = '{"prompt": "todo app"}'
    answer = await site.post(sent, **{"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 201
    assert (await site.post(sent.encode())).status_code == 201


REFUSED: list[tuple[Any, int, str]] = [
    ("", 400, ""),
    ("prompt=todo", 400, ""),
    (b"\xff", 400, ""),
    ("[]", 422, "/"),
    ("{}", 422, "/prompt"),
    ({"prompt": ""}, 422, "/prompt"),
    ({"prompt": " \n"}, 422, "/prompt"),
    ({"prompt": 7}, 422, "/prompt"),
    ({"prompt": "x" * 4001}, 422, "/prompt"),
    ({"prompt": "a\x00b"}, 422, "/prompt"),
    ('{"prompt": "\\ud800"}', 400, ""),
    ({"prompt": "x", "name": ""}, 422, "/name"),
    ({"prompt": "x", "name": "x" * 201}, 422, "/name"),
    ({"prompt": "x", "projectId": 7}, 422, "/projectId"),
    ({"prompt": "x", "projectId": "x" * 129}, 422, "/projectId"),
    ({"prompt": "x", "buildId": 7}, 422, "/buildId"),
    ({"prompt": "x", "buildId": "a b"}, 422, "/buildId"),
    ({"prompt": "x", "buildId": ""}, 422, "/buildId"),
    ({"prompt": "x", "buildId": "x" * 129}, 422, "/buildId"),
    ({"prompt": "x" * 70_000}, 413, ""),
]


async def test_what_cannot_be_built_is_refused_in_words(box: Site) -> None:
    for body, status, pointer in REFUSED:
        answer = await box.post(body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), body
        assert answer.json()["detail"]
        assert pointer in str(answer.json().get("errors")), body


async def test_the_longest_prompt_is_taken(site: Site) -> None:
    assert (await site.post({"prompt": "ä" * 4000})).status_code == 201


async def test_without_the_right_nothing_is_built(site: Site) -> None:
    site.token = "Bearer right"
    assert (await site.post({"prompt": "x"})).status_code == 403
    assert (await site.post({"prompt": "x"}, authorization="Bearer right")).status_code == 201


async def test_a_build_belongs_to_the_project_that_is_named(site: Site) -> None:
    answer = await site.post({"prompt": "x", "buildId": "my-28", "projectId": " shop "})
    assert answer.status_code == 201
    stream = StreamId("build", "my-28")
    assert CATEGORY.labels((await States(site.store).at(stream)).state).project == "shop"


async def test_a_build_can_be_named_once(site: Site) -> None:
    first = await site.post({"prompt": "x", "buildId": "my-27"})
    second = await site.post({"prompt": "y", "buildId": "my-27"})
    assert (first.status_code, first.json()["buildId"]) == (201, "my-27")
    assert second.status_code == 409


async def test_the_same_idempotency_key_is_the_same_build(site: Site, queue_database: str) -> None:
    answers = await asyncio.gather(*(site.post({"prompt": "x"}, **{"idempotency-key": "k-1"}) for _ in range(5)))
    later = await site.post({"prompt": "x"}, **{"idempotency-key": "k-1"})
    other = await site.post({"prompt": "x"}, **{"idempotency-key": "k-2"})
    wrong = await site.post({"prompt": "y"}, **{"idempotency-key": "k-1"})
    builds = {answer.json()["buildId"] for answer in [*answers, later]}
    assert len(builds) == 1
    assert len(builds.pop()) == 26
    assert {answer.status_code for answer in [*answers, later, other]} == {201}
    assert other.json()["buildId"] != later.json()["buildId"]
    assert later.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in other.headers
    assert (wrong.status_code, wrong.json()["code"]) == (422, "key-reused")
    async with await psycopg.AsyncConnection.connect(queue_database) as connection:
        row = await (await connection.execute("select count(*) from queue.procrastinate_jobs")).fetchone()
    assert row == (2,)
    assert (await site.post({"prompt": "x"}, **{"idempotency-key": "a b"})).status_code == 400


async def test_from_the_prompt_to_the_page(site: Site) -> None:
    """All of it over HTTP: the post, the worker, and the page that the log points to."""
    stop = anyio.Event()
    working = asyncio.create_task(site.pipeline.work(stop))
    try:
        build = (await site.post({"prompt": "A blog about bees, with search"})).json()["buildId"]
        with anyio.fail_after(15):
            while True:
                events = [event async for event in replay(site.store, StreamId("build", build))]
                if CATEGORY.is_final(CATEGORY.fold(events).state):
                    break
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await asyncio.wait_for(working, 3)
    assert events[-1].data["previewUrl"] == f"http://preview.test:8000/preview/{build}/"
    page = await site.client.get(f"/preview/{build}/")
    assert page.status_code == 200
    assert "<title>Bees</title>" in page.text
    for name, kind in (("style.css", "text/css; charset=utf-8"), ("app.js", "text/javascript; charset=utf-8")):
        part = await site.client.get(f"/preview/{build}/{name}")
        assert (part.status_code, part.headers["content-type"]) == (200, kind)


async def test_the_pipeline_knows_whether_its_queue_is_there(site: Site, empty_database: str) -> None:
    assert await site.pipeline.is_alive()
    for dsn in (empty_database, "postgresql://nobody@127.0.0.1:1/none"):
        other = Pipeline(site.store, States(site.store), dsn, PipelineSettings(Path("x"), "http://x"))
        assert not await other.is_alive()


# Previews


@pytest.fixture
def published(settings: PipelineSettings, tmp_path: Path) -> Path:
    """The preview of build 27, and things around it that must not be seen."""
    dist = tmp_path / "made"
    (dist / "sub").mkdir(parents=True)
    (dist / "index.html").write_text("<h1>27</h1>")
    (dist / "style.css").write_text("h1{}")
    (dist / "strange.xyz").write_text("<script>")
    (dist / "sub" / "index.html").write_text("sub")
    (settings.data_dir / "secret").write_text("the secret")
    home = previews(settings.data_dir, "27")
    publish(dist, home)
    inside = home / CURRENT
    (inside / "link.html").symlink_to(settings.data_dir / "secret")
    (inside / "up").symlink_to(settings.data_dir)
    (inside / ".env").write_text("the secret")
    return home


async def test_a_preview_is_served_in_a_box(box: Site, published: Path) -> None:
    status, headers, body = await box.raw("/preview/27/")
    assert (status, body) == (200, b"<h1>27</h1>")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    policy = headers["content-security-policy"].split("; ")
    assert policy[:2] == [
        "sandbox allow-scripts allow-forms allow-modals allow-popups",
        "default-src 'self' 'unsafe-inline' data: blob:",
    ]
    assert "allow-same-origin" not in policy[0]


async def test_files_have_their_types_and_folders_their_pages(box: Site, published: Path) -> None:
    found = {path: await box.raw(f"/preview/27/{path}") for path in ("style.css", "sub/", "strange.xyz")}
    assert [(status, headers["content-type"]) for status, headers, _ in found.values()] == [
        (200, "text/css; charset=utf-8"),
        (200, "text/html; charset=utf-8"),
        (200, "application/octet-stream"),
    ]
    status, headers, _ = await box.raw("/preview/27")
    assert (status, headers["location"]) == (308, "/preview/27/")


async def test_an_unchanged_file_is_not_sent_again(box: Site, published: Path) -> None:
    _, headers, _ = await box.raw("/preview/27/style.css")
    status, again, body = await box.raw("/preview/27/style.css", f"If-None-Match: {headers['etag']}")
    assert (status, body, again["etag"]) == (304, b"", headers["etag"])
    assert (await box.raw("/preview/27/style.css", 'If-None-Match: "other"'))[0] == 200
    head = await box.client.head("/preview/27/style.css")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "4", b"")


ELSEWHERE = [
    "/preview/27/none.html",
    "/preview/27/sub",
    "/preview/27/../../secret",
    "/preview/27/..%2f..%2fsecret",
    "/preview/27/%2e%2e/%2e%2e/secret",
    "/preview/27/..%5c..%5csecret",
    "/preview/27//etc/passwd",
    "/preview/27/%2fetc%2fpasswd",
    "/preview/27/link.html",
    "/preview/27/up/secret",
    "/preview/27/.env",
    "/preview/27/./index.html",
    "/preview/27/index.html%00.png",
    "/preview/27/%ff",
    "/preview/27/" + "a/" * 50,
    "/preview/../27/",
    "/preview/%2e%2e/",
    "/preview/../secret",
    "/preview/..%2f27/",
    "/preview/28/",
    "/preview/27/current/index.html",
    "/preview/a%20b/",
    "/preview/" + "x" * 300 + "/",
]


async def test_nothing_else_is_served(box: Site, published: Path) -> None:
    for path in ELSEWHERE:
        status, headers, body = await box.raw(path)
        assert (status, headers["content-type"]) == (404, PROBLEM), path
        assert b"the secret" not in body


async def test_a_damaged_preview_is_no_way_out(box: Site, published: Path, settings: PipelineSettings) -> None:
    (published / CURRENT).unlink()
    (published / CURRENT).symlink_to(settings.data_dir)
    assert (await box.raw("/preview/27/secret"))[0] == 404
