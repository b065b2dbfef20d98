"""SSE: `GET /events/{id}`. The log from the reader's cursor, then live, then `closed`.

Every event carries its version as ``id:``, so a browser that lost its connection comes back with `Last-Event-ID` and
misses nothing. An EventSource cannot read an error answer; so what goes wrong with a cursor is said in the stream
(`reset`), and a reader who is at the end of a finished stream gets 204, which tells it to stop coming back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from eventstore.categories import BY_NAME
from eventstore.errors import BadRequest, Gone, Unavailable
from eventstore.event import StreamId
from eventstore.page import Span
from eventstore.text import iso_millis
from streaming import wire
from streaming.cursor import parse_cursor, reset
from streaming.guard import READ
from streaming.live import Live, build
from streaming.tail import Tail

NAME = "sse"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
PIECE_BYTES = 64 * 1024
"""A page is written in parts of this size, wherever an event ends: the write deadline is for a part."""


class Seat:
    """A member that holds a bounded number of bytes until its reader takes them."""

    format = staticmethod(wire.sse)

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._version = 0
        self._reader: asyncio.Future[None] | None = None
        self.lagging = False

    def offer(self, chunk: bytes, version: int) -> bool:
        self._wake()
        if self._bytes + len(chunk) > self._max_bytes:
            self.expel()  # what is held is dropped: the reader goes back to the log from what it has sent
            return False
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._version = version
        return True

    def expel(self) -> None:
        self.lagging = True
        self._chunks.clear()
        self._bytes = 0
        self._wake()

    async def take(self, seconds: float) -> tuple[bytes, int] | None:
        """What has come, and the version it leads to; None after ``seconds`` of silence or when lagging."""
        if not self._chunks and not self.lagging:
            # A bare future and timer: this runs for every member and event, and a cancel scope costs ten times as much.
            loop = asyncio.get_running_loop()
            self._reader = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._reader
            finally:
                timer.cancel()
                self._reader = None
        if not self._chunks:
            return None
        taken = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks), self._version
        self._chunks.clear()
        self._bytes = 0
        return taken

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Stream(Response):
    """An answer of frames without an end of its own. A reader that takes no byte for the write deadline is cut off.

    It does what sse-starlette's response does (whose frame encoder we use), with one task more than the request's own
    instead of four: the watch for a client that leaves. The deadline is one timer for the connection, not one a frame.
    """

    def __init__(self, live: Live, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]  # nobody knows how long it will be
        self._live = live
        self._frames = frames
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics = self._live.metrics
        metrics.sse_streams.inc()
        with metrics.connections.labels(NAME).track_inprogress():
            async with aclosing(self._frames), anyio.create_task_group() as tasks:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if scope["method"] != "HEAD":
                    tasks.start_soon(self._watch_leaving, receive, tasks.cancel_scope)
                    timer = self._watch_deadline(tasks.cancel_scope)
                    try:
                        await self._send_frames(send)
                    finally:
                        timer.cancel()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                tasks.cancel_scope.cancel()

    async def _send_frames(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        async for frame in self._frames:
            self._sending_since = loop.time()
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self._sending_since = None

    async def _watch_leaving(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    def _watch_deadline(self, scope: anyio.CancelScope) -> _Timer:
        deadline = self._live.limits.write_deadline
        loop = asyncio.get_running_loop()

        def look() -> None:
            since = self._sending_since
            if since is not None and loop.time() - since >= deadline:
                self._live.metrics.stalled.labels(NAME).inc()
                scope.cancel()
            else:
                timer.handle = loop.call_later(deadline / 2, look)

        timer = _Timer(loop.call_later(deadline / 2, look))
        return timer


@dataclass(slots=True)
class _Timer:
    """A timer that sets itself again."""

    handle: asyncio.TimerHandle

    def cancel(self) -> None:
        self.handle.cancel()


async def respond(live: Live, request: Request, stream: StreamId) -> Response:
    """The answer to one reader. The header wins over the query: browsers repeat the old query when they reconnect."""
    live.guard.allow_request(request, READ, stream)
    cursor, unreadable = _cursor(request)
    try:
        is_over = await _is_over(live, stream, cursor)
    except Unavailable as error:
        # An EventSource gives up for ever after any status but 200: it is told to come back instead.
        live.metrics.degraded.inc()
        data = {"type": "degraded", "reason": error.detail}
        return Response(wire.sse_control("degraded", data, retry_ms=live.limits.retry_ms), headers=HEADERS)
    if is_over:
        live.metrics.resumes.labels(NAME, "closed").inc()
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    return Stream(live, frames(live, stream, cursor, unreadable))


async def _is_over(live: Live, stream: StreamId, cursor: int) -> bool:
    """Whoever has this cursor has everything, and nothing more is expected."""
    try:
        at = await live.states.at(stream)
    except Gone:
        return cursor == (await live.store.render(stream, (), Span(limit=0))).head
    return 0 < cursor == at.version and bool(BY_NAME[stream.category].is_final(at.state))


def _cursor(request: Request) -> tuple[int, str]:
    header = request.headers.get("last-event-id")
    if header:
        try:
            return parse_cursor(header, name="Last-Event-ID"), ""
        except BadRequest as error:
            return 0, error.detail
    query = request.query_params
    return parse_cursor(query.get("lastEventId") or query.get("last_event_id")), ""


async def frames(live: Live, stream: StreamId, cursor: int, unreadable: str = "") -> AsyncGenerator[bytes, None]:
    """One reader's stream, frame by frame, beginning after ``cursor``."""
    async with live.hub.watching(stream) as tail:
        yield _connected(live, tail)
        if unreadable:
            yield _reset(live, {"type": "reset", "reason": unreadable, "lastEventId": 0})
        else:
            live.metrics.resumes.labels(NAME, "resumed" if cursor else "started").inc()
        async with aclosing(_follow(live, tail, cursor)) as chunks:
            async for chunk in chunks:
                yield chunk
                live.metrics.delivered.labels(NAME).inc()
        if live.closing.is_set():
            yield wire.sse_control("drain", {"type": "drain"}, retry_ms=live.limits.retry_ms)
        else:
            yield wire.sse_control("closed", {"type": "closed", "lastEventId": tail.cursor})


async def _follow(live: Live, tail: Tail, cursor: int) -> AsyncGenerator[bytes, None]:
    """The log, then what comes live, and back to the log when too slow; ends with the stream, or on closing."""
    while not live.closing.is_set() and not (tail.is_final and cursor == tail.cursor):
        seat = Seat(live.limits.member_bytes)
        if not tail.enter(seat, cursor):
            page = await tail.render(cursor, wire.sse_shape(tail.stream))
            if no_place := reset(cursor, page.floor, page.head):
                cursor = no_place["lastEventId"]
                yield _reset(live, no_place)
                continue
            for start in range(0, len(page.body), PIECE_BYTES):
                yield page.body[start : start + PIECE_BYTES]
            cursor = page.last
            continue
        try:
            while not live.closing.is_set():
                taken = await seat.take(live.limits.heartbeat)
                if live.closing.is_set():
                    return
                if taken is not None:
                    chunk, cursor = taken
                    yield chunk
                    if tail.is_final and cursor == tail.cursor:
                        return
                elif seat.lagging:
                    live.metrics.downgrades.labels(NAME).inc()
                    break
                else:
                    yield _heartbeat(live, tail)
        finally:
            tail.leave(seat)


def _reset(live: Live, data: dict[str, Any]) -> bytes:
    live.metrics.resumes.labels(NAME, "reset").inc()
    # With an id where a floor is: a browser comes back from there, and is told (204) that it has all there is.
    return wire.sse_control("reset", data, id_=data.get("floor"))


def _connected(live: Live, tail: Tail) -> bytes:
    data = {
        "type": "connected",
        "buildId": tail.stream.id,
        "timestamp": iso_millis(live.now()),
        "head": tail.cursor,
        "epoch": live.epoch,
    }
    return wire.sse_control("connected", data, retry_ms=live.limits.retry_ms)


def _heartbeat(live: Live, tail: Tail) -> bytes:
    data = {"type": "heartbeat", "timestamp": iso_millis(live.now()), "head": tail.cursor}
    return wire.sse_control("heartbeat", data)


def routes(live: Live) -> list[BaseRoute]:
    """`GET /events/{id}`."""

    async def events(request: Request) -> Response:
        return await respond(live, request, build(request.path_params["id"]))

    return [Route("/events/{id}", events)]
