"""Client: append to runs and follow them, from Python, over the server's public routes (docs/protocol.md).

Theory: **every request may be sent twice.** Reads change nothing, and an append always carries keys, so that a second
copy of it records nothing and gets the first one's answer. So whatever goes wrong on the way (no connection, a cut
answer, 429, 5xx) has one cure: wait a moment, ask again. And **a follower needs only its cursor**: it holds the version
of the last event it has, and any new connection, over SSE or by polling, goes on from there.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import httpx2
import orjson

from eventstore.errors import CannotStart, FoldstreamError, NotFound, Unreachable
from eventstore.event import NewEvent, StreamId
from foldstream.answers import error_of, foreign
from streaming.cursor import Step, step

Json = dict[str, Any]

TIMEOUT = httpx2.Timeout(10, connect=3)
SILENCE = 45.0
"""Seconds without a byte after which a live connection is taken for dead: three heartbeats."""
FIRST_FRAME = 5.0
"""Seconds that SSE gets to show its first frame, which the server sends at once: a proxy may be holding it back."""
LONG_POLL = 25
PATIENCE = 600.0
"""Seconds that a follower keeps coming back to a server that was there and does not answer any more."""
BACKOFF_BASE, BACKOFF_CAP = 0.25, 5.0

OnWait = Callable[[FoldstreamError, float], None]
Frames = AsyncGenerator[tuple[str, Json], None]


def full_jitter(attempt: int, share: float) -> float:
    """Seconds to wait after the ``attempt``-th failure (1, 2, ...): a random ``share`` (0..1) of a growing span."""
    return share * min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempt, 10))


class Client:
    """One server. Use as ``async with Client(url, token) as client``.

    attempts  how often a request is sent before its error is raised.
    on_wait   called before each pause with the error that made it necessary and its length in seconds.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        attempts: int = 5,
        on_wait: OnWait | None = None,
        share: Callable[[], float] = random.random,
    ) -> None:
        self.url = url.rstrip("/")
        self._attempts, self._on_wait, self._share = attempts, on_wait, share
        try:
            self._http = httpx2.AsyncClient(
                base_url=self.url,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=TIMEOUT,
                # A proxy from the environment is never the way to this machine.
                trust_env=urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost"),
            )
        except (httpx2.InvalidURL, UnicodeError) as error:  # a token with characters that no header may have
            raise CannotStart(
                f"no request can be made to {url[:200]}: {error}", fix="Correct FOLDSTREAM_URL or FOLDSTREAM_TOKEN."
            ) from error

    async def __aenter__(self) -> Client:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def append(self, run: str, events: Sequence[NewEvent]) -> list[int]:
        """Record ``events`` in ``run`` ("build-27") and give their ids. Raises what the server answers."""
        body = orjson.dumps([_posted(event) for event in events])
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex}
        answer = await self._ask("POST", f"{_path(run)}/events", "ids", content=body, headers=headers)
        ids: list[int] = answer["ids"]
        return ids

    async def events(self, run: str, after: int = 0, *, limit: int = 1000, wait: int = 0) -> list[Json]:
        """One page of the events after id ``after``; an empty one is given only after ``wait`` seconds without any."""
        query = {"lastEventId": after, "limit": limit, "wait": wait}
        page = await self._ask("GET", f"{_path(run)}/events", "events", params=query, timeout=_reading(wait + 10))
        events: list[Json] = page["events"]
        return events

    async def state(self, run: str) -> Json:
        """The folded state of ``run``. Raises NotFound while nothing is recorded."""
        return await self._ask("GET", _path(run), "isTerminal")

    async def runs(self, limit: int = 50, **asked: str | None) -> list[Json]:
        """The states of the newest runs, newest first. asked: category, project, status, since, until, before."""
        query = {name: text for name, text in asked.items() if text}
        answer = await self._ask("GET", "/v1/runs", "runs", params={"limit": limit, **query})
        runs: list[Json] = answer["runs"]
        return runs

    async def follow(self, run: str, after: int = 0) -> AsyncGenerator[Json, None]:
        """Every event after ``after``, each once and in order, then live, until the run's end.

        An event ``{"id": 0, "type": "reset"}`` says that the log has begun anew: forget what you have. Lost
        connections are taken up again from the cursor; raises when the server was never there, or not for PATIENCE.
        """
        following = _Following(self, run, after)
        async with aclosing(following.events()) as events:
            async for event in events:
                yield event

    async def _ask(self, method: str, path: str, wanted: str, **rest: Any) -> Json:
        for attempt in count(1):
            try:
                return await self._once(method, path, wanted, **rest)
            except FoldstreamError as error:
                if not error.retryable or attempt >= self._attempts:
                    raise
                await self._pause(attempt, error)
        raise AssertionError("count() does not end")

    async def _once(self, method: str, path: str, wanted: str, **rest: Any) -> Json:
        """One answer: an object with the field ``wanted``."""
        try:
            response = await self._http.request(method, path, **rest)
        except httpx2.RequestError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise error_of(response)
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise foreign(response) from error
        if not isinstance(answer, dict) or wanted not in answer:
            raise foreign(response)
        return answer

    async def _pause(self, attempt: int, error: FoldstreamError) -> None:
        seconds = max(error.retry_after or 0.0, full_jitter(attempt, self._share()))
        if self._on_wait is not None:
            self._on_wait(error, seconds)
        await anyio.sleep(seconds)

    def _unreachable(self, error: httpx2.RequestError) -> Unreachable:
        slow = isinstance(error, httpx2.TimeoutException)
        reason = "it does not answer in time" if slow else str(error) or type(error).__name__
        return Unreachable(f"the server at {self.url} cannot be reached: {reason}")


@dataclass
class _Following:
    """One `follow`: where it stands, and by which road it goes on."""

    client: Client
    run: str
    cursor: int
    epoch: str = ""
    polls: bool = False

    async def events(self) -> AsyncGenerator[Json, None]:
        failures, lost_since = 0, None
        while True:
            error: FoldstreamError = Unreachable("the connection was lost")
            try:
                async with aclosing(self._poll() if self.polls else self._sse()) as frames:
                    async for name, data in frames:
                        if name == "closed":
                            return
                        failures, lost_since = 0, anyio.current_time()
                        event, hole = self._take(name, data)
                        if event is not None:
                            yield event
                        if hole:
                            break
            except _NoSse:
                self.polls = True
                continue
            except FoldstreamError as raised:
                if not raised.retryable:
                    raise
                error = raised
            failures += 1
            never = lost_since is None and failures >= self.client._attempts
            if never or (lost_since is not None and anyio.current_time() - lost_since > PATIENCE):
                raise error
            await self.client._pause(failures, error)

    def _take(self, name: str, data: Json) -> tuple[Json | None, bool]:
        """What a frame means: an event to hand on, or none; and whether it shows a hole that the log must close."""
        if name == "message":
            found = step(self.cursor, data["id"])
            if found is not Step.NEXT:
                return None, found is Step.GAP
            self.cursor = data["id"]
            return {field: data[field] for field in ("id", "type", "data", "timestamp")}, False
        epoch = data.get("epoch", self.epoch)
        if name == "reset" or (self.epoch and epoch != self.epoch):
            self.epoch, self.cursor = epoch, data.get("lastEventId", 0) if name == "reset" else 0
            return {"id": 0, "type": "reset", "data": data, "timestamp": None}, name != "reset"
        self.epoch = epoch
        return None, False

    async def _sse(self) -> Frames:
        async with AsyncExitStack() as stack:
            try:
                first = None
                with anyio.move_on_after(FIRST_FRAME):
                    frames = await self._open(stack)
                    first = await anext(frames, None)
                if first is None:
                    raise _NoSse
                yield first.event, orjson.loads(first.data or b"{}")
                async for frame in frames:
                    if frame.data:  # a block may hold nothing but `retry:` or `id:`
                        yield frame.event, orjson.loads(frame.data)
            except httpx2.SSEError as error:
                raise _NoSse from error
            except httpx2.RequestError as error:
                raise self.client._unreachable(error) from error

    async def _open(self, stack: AsyncExitStack) -> AsyncIterator[httpx2.ServerSentEvent]:
        """The frames of a new connection, which is closed with the ``stack``."""
        opening = self.client._http.sse(
            f"{_path(self.run)}/events",
            headers={"Last-Event-ID": str(self.cursor)} if self.cursor else {},
            timeout=_reading(SILENCE),
        )
        source = await stack.enter_async_context(opening)
        if source.response.status_code == 204:
            return _closed()
        if not source.response.is_success:
            await source.response.aread()
            raise error_of(source.response)
        return aiter(source)

    async def _poll(self) -> Frames:
        path, query = f"{_path(self.run)}/events", {"limit": 1000, "wait": LONG_POLL}
        while True:
            asked = anyio.current_time()
            page = await self.client._once(
                "GET", path, "events", params={"lastEventId": self.cursor, **query}, timeout=_reading(LONG_POLL + 10)
            )
            yield "connected", {"epoch": page.get("epoch", self.epoch)}
            if "reset" in page:
                yield "reset", {**page["reset"], "lastEventId": page["lastEventId"]}
            for event in page["events"]:
                yield "message", event
            if page["events"] or "reset" in page:
                continue
            # Nothing new: because it is over, because the log is another one, or because nothing happens.
            state = await self._state()
            if state["lastEventId"] < self.cursor:
                yield "reset", {}
            elif state["isTerminal"] and state["lastEventId"] == self.cursor:
                yield "closed", {}
                return
            elif anyio.current_time() - asked < 1:
                await anyio.sleep(1)  # a server that is going down does not let anybody wait

    async def _state(self) -> Json:
        try:
            return await self.client._once("GET", _path(self.run), "isTerminal")
        except NotFound:
            return {"lastEventId": 0, "isTerminal": False}


async def _closed() -> AsyncIterator[httpx2.ServerSentEvent]:
    """What 204 means: the stream is over and has been read."""
    yield httpx2.ServerSentEvent(event="closed")


class _NoSse(Exception):
    """No frame comes through, or what comes is not SSE: somebody between us and the server holds it back."""


def _path(run: str) -> str:
    return f"/v1/runs/{StreamId.parse(run)}"


def _reading(seconds: float) -> httpx2.Timeout:
    return httpx2.Timeout(10, connect=3, read=seconds)


def _posted(event: NewEvent) -> Json:
    posted: Json = {"type": event.type, "data": event.data}
    optional = (
        ("key", event.key),
        ("timestamp", event.at),
        ("requestId", event.request_id),
        ("traceparent", event.traceparent),
    )
    for name, value in optional:
        if value is not None:
            posted[name] = value
    return posted
