"""POST /build-preview: a prompt in, a build under way out. Promise, first job and first event commit together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from eventstore.category import MOST_PROJECT
from eventstore.errors import BadRequest, Invalid, TooLarge
from eventstore.event import KEY, NewEvent, StreamId
from eventstore.states import States
from eventstore.store import Store
from pipeline import preview
from pipeline.flow import Job
from pipeline.queue import accept
from pipeline.settings import PipelineSettings

BODY_BYTES = 64 * 1024
PROMPT_CHARACTERS = 4000
NAME_CHARACTERS = 200
WRITE = "write"

Allow = Callable[[HTTPConnection, str, StreamId | None], None]
"""(request, scope, stream): raises Forbidden unless the request may do that; stream None: on any."""


def routes(
    store: Store,
    states: States,
    settings: PipelineSettings,
    *,
    mint: Callable[[StreamId], str],
    new_id: Callable[[], str],
    allow: Allow,
) -> list[BaseRoute]:
    """The commands of the pipeline, and the previews. mint: a token for a stream; new_id: an id nobody has yet."""

    async def build_preview(request: Request) -> Response:
        allow(request, WRITE, None)
        asked = _asked(await _body(request))
        key = request.headers.get("idempotency-key")
        build = asked.pop("buildId", None) or (_id_of(key) if key is not None else new_id())
        stream = StreamId("build", build)
        state = request.scope.get("state", {})
        replayed = key is not None and (await states.at(stream)).version > 0
        queued = NewEvent(
            "build_queued",
            {**asked, "worker": "web"},
            key=f"asked:{key}" if key is not None else None,
            request_id=state.get("sent_request_id"),
            traceparent=state.get("traceparent"),
        )
        first = partial(accept, build=build, jobs=[Job("plan", build)])
        await store.append(stream, [queued], expected=0, also=first)
        answer = _answer(settings.public_url, build, mint(stream))
        headers = {"Location": answer["statusUrl"], "Cache-Control": "no-store"}
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        return Response(orjson.dumps(answer), 201, headers, "application/json")

    return [Route("/build-preview", build_preview, methods=["POST"]), *preview.routes(settings.data_dir)]


def _answer(public_url: str, build: str, token: str) -> dict[str, Any]:
    """Where to follow the build, by every way there is. jobId is the old name of buildId."""
    base = public_url.rstrip("/")
    return {
        "buildId": build,
        "jobId": build,
        "websocketUrl": "ws" + base.removeprefix("http"),
        "buildToken": token,
        "statusUrl": f"{base}/api/builds/{build}/status",
        "eventsUrl": f"{base}/api/builds/{build}/events",
        "streamUrl": f"{base}/events/{build}",
        "uiUrl": f"{base}/ui/runs/{build}",
    }


async def _body(request: Request) -> bytes:
    """The body, as long as it is small. Raises TooLarge."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise TooLarge(f"the body has more than {BODY_BYTES:,} bytes", fix="Send a shorter prompt.")
    return body


def _asked(body: bytes) -> dict[str, Any]:
    """prompt, name, perhaps projectId and buildId. JSON, whatever the content type says: to `curl -d` all is a form."""
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        fix = 'Send {"prompt": "Create a todo app"}.'
        raise BadRequest(f"the body is not JSON: {error}", fix=fix) from error
    if not isinstance(sent, dict):
        raise Invalid("the body is not an object", fix='Send {"prompt": "Create a todo app"}.', pointer="/")
    prompt = _text(sent, "prompt", PROMPT_CHARACTERS)
    if prompt is None:
        raise Invalid(
            "there is no prompt",
            fix='Say what to build: {"prompt": "Create a todo app with dark mode"}.',
            pointer="/prompt",
        )
    name = _text(sent, "name", NAME_CHARACTERS) or " ".join(prompt.split())[:60]
    asked = {"prompt": prompt, "name": name}
    project = _text(sent, "projectId", MOST_PROJECT)
    if project is not None:
        asked["projectId"] = project
    build = sent.get("buildId")
    if build is None:
        return asked
    if not isinstance(build, str):
        raise Invalid("buildId is not text", pointer="/buildId")
    try:
        StreamId("build", build)
    except Invalid as error:
        error.pointer = "/buildId"
        raise
    return {**asked, "buildId": build}


def _text(sent: dict[str, Any], field: str, most: int) -> str | None:
    """A text of 1 to ``most`` characters, or None if the field is missing. Raises Invalid."""
    value = sent.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > most or "\x00" in value:
        raise Invalid(f"{field} is not a text of 1 to {most:,} characters", pointer=f"/{field}")
    return value.strip()


ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _id_of(key: str) -> str:
    """The id that belongs to an idempotency key, in the form of the other ids: the same key is the same build."""
    if not KEY.fullmatch(key) or len(key) > 190:
        raise BadRequest("Idempotency-Key is not 1 to 190 visible ASCII characters", fix="Send a UUID.")
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16])
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
