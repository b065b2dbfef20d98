"""Polling: the log and its meaning as plain JSON answers, and the append route beside them.

`GET /api/builds/{id}/events?lastEventId=5`, `GET /api/builds/{id}/status`, `POST /api/builds/{id}/events`; the same
under `/v1/runs/{category-id}` for every kind of stream. While the store is away the builds' GETs answer 200 with
nothing new and `degraded: true`: a page that polls must neither break nor show a build as unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from eventstore.categories import BY_NAME
from eventstore.categories.build import old_view
from eventstore.errors import BadRequest, NotFound, Unavailable
from eventstore.event import EVENT_TYPE, StreamId
from eventstore.page import PAGE, Span
from streaming import listing, wire
from streaming.cursor import MAX_VERSION, parse_cursor, reset
from streaming.guard import READ, WRITE
from streaming.live import Live, build
from streaming.posted import new_events
from streaming.tail import Tail
from streaming.transports import sse

NAME = "polling"
MOST_TYPES = 50
NO_STORE = {"Cache-Control": "no-store"}


class Awaited:
    """A member that only wants to know that something came."""

    format = staticmethod(len)

    def __init__(self) -> None:
        self.came = anyio.Event()

    def offer(self, chunk: Any, version: int) -> bool:
        self.came.set()
        return False

    def expel(self) -> None:
        self.came.set()


async def events(live: Live, request: Request, stream: StreamId) -> Response:
    """One page after the cursor; with ``wait`` the answer waits for the first new event that long."""
    accept = request.headers.get("accept", "")
    if "text/event-stream" in accept:
        return await sse.respond(live, request, stream)
    live.guard.allow_request(request, READ, stream)
    span = _span(request)
    wait = _number(request, "wait", 0, 0, int(live.limits.wait))
    is_lines = "application/x-ndjson" in accept
    shape = wire.LINE if is_lines else wire.LISTED
    live.metrics.polls.inc()
    page = await live.store.render(stream, shape, span)
    no_place = reset(span.after, page.floor, page.head)
    if wait and not page.count and not no_place and not span.backward and span.before is None:
        await _wait(live, stream, page.last, wait)
        page = await live.store.render(stream, shape, span := span._replace(after=page.last))
        no_place = reset(span.after, page.floor, page.head)
    cursor = page.last
    rest: dict[str, Any] = {}
    if no_place:
        cursor = no_place["lastEventId"]
        rest = {"reset": {name: no_place[name] for name in no_place if name in ("reason", "floor")}}
    elif span.backward:
        cursor = span.after
        rest = {"before": page.last if page.last > max(span.after, page.floor) + 1 else None}
    if is_lines:
        headers = {"Last-Event-ID": str(cursor), **NO_STORE}
        return Response(page.body, media_type="application/x-ndjson", headers=headers)
    return _json(wire.page_json(stream, page.body, cursor, **rest, epoch=live.epoch))


def _span(request: Request) -> Span:
    """The events that are asked for. Raises BadRequest."""
    query = request.query_params
    order = query.get("order") or "asc"
    if order not in ("asc", "desc"):
        raise BadRequest(f"order is {order[:40]!r}, neither asc nor desc", pointer="/order")
    types = tuple(dict.fromkeys(query.get("types", "").split(","))) if query.get("types") else ()
    if len(types) > MOST_TYPES or not all(map(EVENT_TYPE.fullmatch, types)):
        raise BadRequest(
            "types is not a list of event types",
            fix=f"Send at most {MOST_TYPES} of them with commas between, such as types=task_started,task_completed.",
            pointer="/types",
        )
    return Span(
        after=parse_cursor(query.get("lastEventId")),
        limit=_number(request, "limit", PAGE, 1, PAGE),
        before=_number(request, "before", 0, 1, MAX_VERSION) or None,
        types=types,
        backward=order == "desc",
    )


async def _wait(live: Live, stream: StreamId, cursor: int, seconds: int) -> None:
    """Until there is something after the cursor, or nothing more is expected, or the time is over."""
    async with live.hub.watching(stream) as tail:
        if tail.cursor <= cursor and not tail.is_final:
            awaited = Awaited()
            with anyio.move_on_after(seconds):
                await _beyond(live, tail, awaited, cursor)
            tail.leave(awaited)


async def _beyond(live: Live, tail: Tail, awaited: Awaited, cursor: int) -> None:
    while tail.cursor <= cursor and not live.closing.is_set():
        awaited.came = anyio.Event()
        tail.enter(awaited, tail.cursor)
        await awaited.came.wait()


async def append(live: Live, request: Request, stream: StreamId) -> Response:
    """Record one event, a list of them, or NDJSON."""
    live.guard.allow_request(request, WRITE, stream)
    news, expected = await new_events(request)
    recorded = await live.store.append(stream, news, expected=expected)
    ids = [event.version for event in recorded]
    answer = {"buildId": stream.id, "id": ids[0], "ids": ids, "lastEventId": max(ids)}
    location = f"{request.url.path}?lastEventId={ids[0] - 1}&limit=1"
    return Response(
        orjson.dumps(answer), 201, media_type="application/json", headers={"Location": location, **NO_STORE}
    )


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise BadRequest(
            f"{name} is {text[:40]!r}, not a whole number from {low} to {high}",
            fix=f"Correct {name} or leave it out.",
            pointer=f"/{name}",
        )
    return int(text)


def _json(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, media_type="application/json", headers={**NO_STORE, **(headers or {})})


def _degraded(live: Live, body: dict[str, Any], error: Unavailable) -> Response:
    live.metrics.degraded.inc()
    return _json(orjson.dumps(body), {"Retry-After": str(int(error.retry_after or 2))})


async def _build_events(live: Live, request: Request) -> Response:
    stream = build(request.path_params["id"])
    if request.method == "POST":
        return await append(live, request, stream)
    try:
        return await events(live, request, stream)
    except Unavailable as error:
        cursor = parse_cursor(request.query_params.get("lastEventId"))
        answer = {"buildId": stream.id, "events": [], "lastEventId": cursor, "epoch": live.epoch, "degraded": True}
        return _degraded(live, answer, error)


async def _build_status(live: Live, request: Request) -> Response:
    stream = build(request.path_params["id"])
    live.guard.allow_request(request, READ, stream)
    fold = request.query_params.get("fold", "")
    if fold not in ("", "legacy"):
        raise BadRequest(f"fold is {fold[:40]!r}", fix="Send fold=legacy for the old scale, or leave fold out.")
    version = _version(request)
    try:
        at = await live.states.at(stream, version)
    except Unavailable as error:
        if version is not None:
            raise
        kept = live.states.kept(stream)
        view = old_view(stream.id, kept, legacy=fold == "legacy")
        if kept.version == 0:
            view["status"] = None  # not `unknown`: that would say that there is no such build
        return _degraded(live, {**view, "degraded": True}, error)
    return _json(orjson.dumps(old_view(stream.id, at, legacy=fold == "legacy")))


def _existing(request: Request) -> StreamId:
    """The stream that a path under /v1/runs names."""
    stream = StreamId.parse(request.path_params["run"])
    if stream.category not in BY_NAME:
        raise NotFound(f"there is no category {stream.category!r}")
    return stream


def _version(request: Request) -> int | None:
    """``at``: the state as of this version. None: as of now. Raises BadRequest."""
    return _number(request, "at", 0, 1, MAX_VERSION) or None


async def _run(live: Live, request: Request) -> Response:
    stream = _existing(request)
    live.guard.allow_request(request, READ, stream)
    at = await live.states.at(stream, _version(request))
    if at.version == 0:
        raise NotFound(f"nothing has been recorded for {stream} yet", fix="Check the id, or start the run.")
    return _json(orjson.dumps({**BY_NAME[stream.category].view(stream.id, at), "epoch": live.epoch}))


async def _run_events(live: Live, request: Request) -> Response:
    stream = _existing(request)
    return await (append if request.method == "POST" else events)(live, request, stream)


async def _runs(live: Live, request: Request) -> Response:
    """The list page: newest first, ``before`` = the `next` of the page before. See `streaming.listing`."""
    live.guard.allow_request(request, READ)
    query = listing.query(request.query_params, _number(request, "limit", 50, 1, 200))
    page = await live.states.page(query)
    view = BY_NAME[query.category].view
    runs = [view(stream.id, at) for stream, at in page.runs]
    return _json(orjson.dumps({"runs": runs, "next": str(page.next) if page.next else None}))


def routes(live: Live) -> list[BaseRoute]:
    """All of them; see the top of this file."""

    def endpoint(answer: Callable[[Live, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await answer(live, request)

        return endpoint

    both = ["GET", "POST"]
    return [
        Route("/api/builds/{id}/events", endpoint(_build_events), methods=both),
        Route("/api/builds/{id}/status", endpoint(_build_status)),
        Route("/v1/runs", endpoint(_runs)),
        Route("/v1/runs/{run}", endpoint(_run)),
        Route("/v1/runs/{run}/events", endpoint(_run_events), methods=both),
    ]
