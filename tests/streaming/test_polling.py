"""The REST answers: the documents' examples to the letter, and every bad input with a way out and an untouched log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from eventstore.errors import Unavailable
from eventstore.stores.memory import MemoryStore
from tests.serving import F27, Announcer, Served, serving, serving_memory


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


async def get(served: Served, path: str, status: int = 200, **params: Any) -> Any:
    answer = await served.client.get(path, params=params)
    assert answer.status_code == status, answer.text
    return answer.json()


async def post(served: Served, path: str, body: Any, status: int = 201, **headers: str) -> Any:
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    answer = await served.client.post(path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def seeds(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields that the documents name; we add others."""
    return {name: answer[name] for name in names}


@pytest.mark.req("S0-01", "S0-03", "S0-04", "S0-05", "S0-06", "S0-07", "S1-46")
async def test_the_documents_events_example(served: Served) -> None:
    await post(served, "/api/builds/27/events", F27[:6])
    answer = await get(served, "/api/builds/27/events", lastEventId=5)
    del answer["events"][0]["data"]["message"]
    assert seeds(answer, "buildId", "events", "lastEventId") == {
        "buildId": "27",
        "events": [
            {
                "id": 6,
                "type": "task_completed",
                "data": {"taskName": "Create HTML Test Page", "filesCreated": 1},
                "timestamp": "2025-07-22T07:14:36.224Z",
            }
        ],
        "lastEventId": 6,
    }
    again = await get(served, "/api/builds/27/events", lastEventId=6)
    assert (again["events"], again["lastEventId"]) == ([], 6)


@pytest.mark.req("S0-08", "S0-38", "S0-09", "S0-10", "S0-28", "S1-41", "S1-44", "N-02")
async def test_the_documents_status_example(served: Served) -> None:
    await post(served, "/api/builds/27/events", F27)
    assert await get(served, "/api/builds/27/status") == {
        "buildId": "27",
        "status": "completed",
        "progress": 100,
        "previewUrl": "https://e05f45e2.sheenapps-preview.pages.dev",
        "error": None,
        "eventCount": 12,
        "lastUpdate": "2025-07-22T07:15:20.107Z",
        "lastEventId": 12,
    }
    run = await get(served, "/v1/runs/build-27")
    assert (run["isTerminal"], run["startedAt"], run["endedAt"]) == (
        True,
        "2025-07-22T07:13:50.000Z",
        "2025-07-22T07:15:20.107Z",
    )


@pytest.mark.req("S1-42", "S1-43")
async def test_both_scales_of_progress(served: Served) -> None:
    ours, old = [], []
    for event in F27:
        await post(served, "/api/builds/27/events", event)
        ours.append((await get(served, "/api/builds/27/status"))["progress"])
        old.append((await get(served, "/api/builds/27/status", fold="legacy"))["progress"])
    assert ours == [5, 10, 20, 30, 40, 50, 60, 70, 70, 75, 80, 100]
    assert old == [10, 20, 30, 40, 50, 60, 70, 70, 80, 80, 80, 100]


@pytest.mark.req("S0-17", "S0-40")
async def test_an_unknown_build_is_empty_and_unknown(served: Served) -> None:
    answer = await get(served, "/api/builds/nope/events")
    assert (answer["events"], answer["lastEventId"]) == ([], 0)
    status = await get(served, "/api/builds/nope/status")
    assert (status["status"], status["progress"], status["eventCount"]) == ("unknown", 0, 0)
    assert (await get(served, "/v1/runs/build-nope", 404))["code"] == "not-found"


@pytest.mark.req("K-09")
async def test_status_is_the_fold_of_the_events(served: Served) -> None:
    from eventstore.categories.build import CATEGORY, old_view
    from eventstore.event import StreamId

    for event in F27:
        await post(served, "/api/builds/27/events", event)
        log = await served.store.read(StreamId("build", "27"))
        assert await get(served, "/api/builds/27/status") == old_view("27", CATEGORY.fold(log))


async def test_limit_pages_through_a_log(served: Served) -> None:
    await post(served, "/api/builds/27/events", F27)
    seen: list[int] = []
    while page := (await get(served, "/api/builds/27/events", lastEventId=len(seen), limit=5))["events"]:
        seen.extend(event["id"] for event in page)
        assert len(page) <= 5
    assert seen == list(range(1, 13))


async def test_ndjson_is_one_event_a_line(served: Served) -> None:
    await post(served, "/api/builds/27/events", F27)
    answer = await served.client.get("/api/builds/27/events", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == list(range(1, 13))


async def test_a_long_poll_answers_at_the_first_new_event(served: Served) -> None:
    await served.append("27", "plan_started")
    answers: list[Any] = []

    async def poll() -> None:
        answers.append(await get(served, "/api/builds/27/events", lastEventId=1, wait=20))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            while not served.live.hub._tails:
                await anyio.lowlevel.checkpoint()
            await served.append("27", "plan_generated")
    assert [event["id"] for event in answers[0]["events"]] == [2]


async def test_a_long_poll_at_the_end_of_a_finished_build_does_not_wait(served: Served) -> None:
    await post(served, "/api/builds/27/events", F27)
    with anyio.fail_after(5):
        assert (await get(served, "/api/builds/27/events", lastEventId=12, wait=25))["events"] == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("lastEventId=abc", "/lastEventId"),
        ("lastEventId=-1", "/lastEventId"),
        ("lastEventId=1.5", "/lastEventId"),
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("wait=26", "/wait"),
        ("wait=x", "/wait"),
    ],
)
async def test_a_bad_query_is_a_problem_that_names_it(served: Served, query: str, pointer: str) -> None:
    answer = await served.client.get(f"/api/builds/27/events?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["errors"][0]["pointer"] == pointer
    assert problem["fix"]
    assert problem["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"{", 400, None),
        (b"\xff\xfe", 400, None),
        (b"", 400, None),
        (b"NaN", 400, None),
        (b"[" * 50_000, 422, None),
        (b'{"type": "x", "data": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", 400, None),
        (b'{"type": "x", "data": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}", 422, "/data"),
        (b"[]", 422, None),
        (b"5", 422, None),
        (b'{"type": 5}', 422, "/type"),
        (b'{"data": {}}', 422, None),
        (b'{"type": "a b"}', 422, "/type"),
        (b'{"type": ""}', 422, "/type"),
        (b'{"type": "x", "data": []}', 422, "/data"),
        (b'{"type": "x", "kee": "1"}', 422, None),
        (b'{"type": "x", "key": ""}', 422, "/key"),
        (b'{"type": "x", "timestamp": "yesterday"}', 422, "/timestamp"),
        (b'{"type": "x", "data": {"a": "\\u0000"}}', 422, "/data/a"),
        (b'{"type": "x", "data": {"a": 1e400}}', 422, None),
        (b'{"type": "status", "data": {"progress": 101}}', 422, "/data/progress"),
        (b'{"type": "deploy_completed"}', 422, "/data/previewUrl"),
        (b'[{"type": "x"}, {"type": "status", "data": {"progress": "1"}}]', 422, "/1/data/progress"),
        (b'{"type": "x", "data": {"a": "' + b"x" * 70_000 + b'"}}', 422, "/data"),
        (b'{"type": "' + b"x" * 51 + b'"}', 422, "/type"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
@pytest.mark.req("S0-21", "S2-16", "S1-06")
async def test_a_bad_body_is_a_problem_and_the_log_is_untouched(
    served: Served, body: bytes, status: int, pointer: str | None
) -> None:
    problem = await post(served, "/api/builds/27/events", body, status)
    assert problem["status"] == status
    assert problem["fix"]
    if pointer:
        assert problem["errors"][0]["pointer"] == pointer
    assert (await get(served, "/api/builds/27/events"))["events"] == []


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    for body in (endless(), b"x" * 2_000_000):  # without and with a Content-Length
        answer = await served.client.post("/api/builds/27/events", content=body)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "too-large"


@pytest.mark.req("S1-70")
async def test_unknown_types_and_fields_come_back_unchanged(served: Served) -> None:
    odd = {"type": "coffee.brewed", "data": {"cups": [1, {"größe": None}], "π": 3.14}}
    await post(served, "/api/builds/27/events", odd)
    [event] = (await get(served, "/api/builds/27/events"))["events"]
    assert {"type": event["type"], "data": event["data"]} == odd
    assert (await get(served, "/api/builds/27/status"))["eventCount"] == 1


@pytest.mark.req("S2-15")
async def test_other_names_of_types_are_stored_under_the_canonical_one(served: Served) -> None:
    for alias in ("plan", "task_start", "task_complete"):
        await post(served, "/api/builds/27/events", {"type": alias, "data": {"taskName": "a"}})
    await post(served, "/api/builds/27/events", {"type": "complete", "data": {"previewUrl": "https://a.example"}})
    types = [event["type"] for event in (await get(served, "/api/builds/27/events"))["events"]]
    assert types == ["plan_generated", "task_started", "task_completed", "deploy_completed"]


async def test_a_repeated_request_records_once_and_gets_its_first_answer(served: Served) -> None:
    events = [{"type": "a"}, {"type": "b", "key": "own"}]
    first = await post(served, "/api/builds/27/events", events, **{"Idempotency-Key": "k-1"})
    again = await post(served, "/api/builds/27/events", events, **{"Idempotency-Key": "k-1"})
    assert first == again
    assert first["ids"] == [1, 2]
    other = await post(served, "/api/builds/27/events", [{"type": "c"}], 422, **{"Idempotency-Key": "k-1"})
    assert other["code"] == "key-reused"


async def test_an_append_that_expected_another_version_conflicts_and_names_both(served: Served) -> None:
    await post(served, "/api/builds/27/events?expected=0", {"type": "a"})
    problem = await post(served, "/api/builds/27/events?expected=0", {"type": "b"}, 409)
    assert "version 1" in problem["detail"]
    assert "0" in problem["detail"]


async def test_ndjson_is_appended_and_a_bad_line_is_named(served: Served) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await post(served, "/api/builds/27/events", b'{"type":"a"}\n\n{"type":"b"}\n', **headers)
    assert answer["ids"] == [1, 2]
    problem = await post(served, "/api/builds/27/events", b'{"type":"a"}\n{"type":7}\n', 422, **headers)
    assert problem["errors"][0]["pointer"] == "/line/2/type"
    assert (await get(served, "/api/builds/27/status"))["eventCount"] == 2


async def test_routes_that_do_not_exist_and_methods_that_do_not_fit_are_problems(served: Served) -> None:
    missing = await served.client.get("/api/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
    wrong = await served.client.delete("/api/builds/27/events")
    assert wrong.status_code == 405
    assert "GET" in wrong.headers["allow"]
    assert wrong.json()["fix"].startswith("Use ")


@pytest.mark.parametrize("id_", ["a b", "a%00b", "ä", "x" * 129, "a%2Fb"])
async def test_an_id_that_is_none_is_refused(served: Served, id_: str) -> None:
    answer = await served.client.get(f"/api/builds/{id_}/events")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.req("S0-39", "S1-76")
async def test_while_the_store_is_away_builds_answer_degraded_and_others_503() -> None:
    class Away(MemoryStore):
        away = False

        async def _round_trip(self) -> None:
            if self.away:
                raise Unavailable("Postgres does not answer")
            await super()._round_trip()

    announcer = Announcer()
    store = Away(announce=announcer)
    async with serving(store, announcer) as served:
        await served.append("27", "plan_started")
        await get(served, "/api/builds/27/status")
        store.away = True
        answer = await served.client.get("/api/builds/27/events?lastEventId=7")
        assert answer.headers["retry-after"]
        body = answer.json()
        assert (body["events"], body["lastEventId"], body["degraded"]) == ([], 7, True)
        known = await get(served, "/api/builds/27/status")
        assert (known["status"], known["degraded"]) == ("planning", True)
        unknown = await get(served, "/api/builds/28/status")
        assert (unknown["status"], unknown["degraded"]) == (None, True)
        problem = await get(served, "/v1/runs/build-27/events", 503)
        assert problem["retryable"] is True
        stream = await served.client.get("/events/27", headers={"Last-Event-ID": "1"})
        assert (stream.status_code, stream.headers["content-type"][:17]) == (200, "text/event-stream")
        assert "event: degraded" in stream.text
        assert "retry: " in stream.text


async def test_the_list_of_runs_has_pages(served: Served) -> None:
    for number in range(5):
        await served.append(f"b{number}", "plan_started", prompt=f"app {number}")
    first = await get(served, "/v1/runs", limit=3)
    assert [run["buildId"] for run in first["runs"]] == ["b4", "b3", "b2"]
    second = await get(served, "/v1/runs", limit=3, before=first["next"])
    assert [run["buildId"] for run in second["runs"]] == ["b1", "b0"]
    assert second["next"] is None


@pytest.mark.req("S2-61", "S2-62", "S1-35")
async def test_metrics_count_what_was_appended(served: Served) -> None:
    await post(served, "/api/builds/27/events", F27)
    await post(served, "/api/builds/27/events", {"type": "own.type"})
    answer = await served.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'build_events_total{type="task_completed"} 3.0' in answer.text
    assert 'build_events_total{type="other"} 1.0' in answer.text
    assert "websocket_active_connections 0.0" in answer.text


@pytest.mark.req("S3-44")
async def test_health_says_what_answers(served: Served) -> None:
    assert await get(served, "/health") == {"status": "ok", "postgres": "ok", "redis": "ok", "queue": "ok"}


async def test_a_client_that_hangs_up_in_its_body_is_no_defect_of_ours(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as socket:
        await socket.send(b"POST /api/builds/27/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")
    sample = 'foldstream_request_seconds_count{method="POST",status="400"} 1.0'
    with anyio.fail_after(10):
        while sample not in (await served.client.get("/metrics")).text:
            await anyio.sleep(0.01)
    assert "unexpected" not in caplog.text
    assert (await get(served, "/api/builds/27/events"))["events"] == []


async def test_large_events_make_short_pages(served: Served) -> None:
    for _ in range(40):
        await served.append("27", "status", text="x" * 60_000)
    seen: list[int] = []
    while page := (await served.client.get(f"/api/builds/27/events?lastEventId={len(seen)}")).json()["events"]:
        assert len(page) < 20
        seen.extend(event["id"] for event in page)
    assert seen == list(range(1, 41))
