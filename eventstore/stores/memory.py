"""MemoryStore: the twin of the Postgres store, for tests and for programs that need no memory of yesterday.

It keeps the same contract and passes the same suite. Wherever Postgres would cost a round trip it awaits ``delay``, so
that what races there races here too; an instant twin would hide that. One lock a stream, like the row lock; a commit is
one synchronous step, and its number is the transaction of `Position`, so nothing open is ever visible.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from uuid import uuid4

from eventstore.admit import MAX_DATA_BYTES, Draft, admit
from eventstore.errors import Conflict, KeyReused, Sealed
from eventstore.event import START, Event, NewEvent, Position, StreamId
from eventstore.page import PAGE, Rendered, Span, rendered
from eventstore.shape import Shape
from eventstore.store import Also, Announce, Listed
from eventstore.upcast import lifted

log = logging.getLogger(__name__)

Delay = float | Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Log:
    """One stream."""

    created_at: datetime
    events: list[Event] = field(default_factory=list)
    keys: dict[str, Event] = field(default_factory=dict)
    is_sealed: bool = False


class MemoryStore:
    """`Log`, `Index` and `Keeper` in this process.

    announce  is called with new events after their commit, in order of version for each stream.
    delay     what each round trip takes: seconds, or a function to await. now: the clock.
    """

    def __init__(
        self,
        *,
        announce: Announce | None = None,
        max_data_bytes: int = MAX_DATA_BYTES,
        delay: Delay = 0.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._announce = announce
        self._max_data_bytes = max_data_bytes
        self._delay = delay
        self._now = now
        self._epoch = str(uuid4())
        self._streams: dict[StreamId, _Log] = {}
        self._all: list[Event] = []
        self._transaction = 0
        self._locks: defaultdict[StreamId, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def append(
        self, stream: StreamId, events: Sequence[NewEvent], *, expected: int | None = None, also: Also | None = None
    ) -> list[Event]:
        """See `Store.append`."""
        drafts = admit(stream, events, max_data_bytes=self._max_data_bytes)
        await self._round_trip()
        async with self._locks[stream]:
            known = self._known(stream, drafts)
            if len(known) < len(drafts):
                held = self._streams.get(stream)
                version = len(held.events) if held is not None else 0
                if held is not None and held.is_sealed:
                    raise Sealed(f"{stream} is sealed at version {version}: nothing more is recorded in it")
                if expected is not None and expected != version:
                    raise Conflict(stream, expected, version)
                if also is not None:
                    await also(None)
            recorded = self._commit(stream, drafts, known)
        await self._round_trip()
        return recorded

    async def read(
        self,
        stream: StreamId,
        after: int = 0,
        limit: int = PAGE,
        *,
        before: int | None = None,
        types: Sequence[str] = (),
        backward: bool = False,
    ) -> list[Event]:
        """See `Store.read`."""
        await self._round_trip()
        events = self._between(stream, max(after, 0), before, backward)
        return lifted(_first(events, limit, types))

    async def render(self, stream: StreamId, shape: Shape, span: Span) -> Rendered:
        """See `Renderer.render`."""
        await self._round_trip()
        head = len(self._streams[stream].events) if stream in self._streams else 0
        events = self._between(stream, *span.bounds(head), span.backward)
        return rendered(lifted(_first(events, span.limit, span.types)), shape, span, 0, head)

    def _between(self, stream: StreamId, after: int, before: int | None, backward: bool) -> list[Event]:
        held = self._streams.get(stream)
        events = held.events[after : None if before is None else max(before - 1, 0)] if held else []
        return events[::-1] if backward else events

    async def read_all(self, after: Position = START, limit: int = PAGE) -> list[Event]:
        """See `Store.read_all`."""
        await self._round_trip()
        return lifted(self._all[after.number :][:limit])

    async def heads(self, streams: Iterable[StreamId]) -> Mapping[StreamId, int]:
        """See `Store.heads`."""
        asked = list(streams)
        await self._round_trip()
        return {stream: len(self._streams[stream].events) for stream in asked if stream in self._streams}

    async def recent(self, category: str, limit: int = 100, before: StreamId | None = None) -> list[Listed]:
        """See `Index.recent`."""
        await self._round_trip()
        youngest = [stream for stream in reversed(self._streams) if stream.category == category]
        if before is not None:
            youngest = youngest[youngest.index(before) + 1 :] if before in youngest else []
        return [Listed(s, len(self._streams[s].events), self._streams[s].created_at) for s in youngest[:limit]]

    async def seal(self, stream: StreamId) -> int:
        """See `Keeper.seal`."""
        await self._round_trip()
        async with self._locks[stream]:
            held = self._streams.get(stream)
            if held is None:
                return 0
            held.is_sealed = True
            return len(held.events)

    async def epoch(self) -> str:
        """See `Index.epoch`."""
        return self._epoch

    async def ping(self) -> None:
        """See `Index.ping`."""
        await self._round_trip()

    async def _round_trip(self) -> None:
        await (asyncio.sleep(self._delay) if isinstance(self._delay, (int, float)) else self._delay())

    def _known(self, stream: StreamId, drafts: Sequence[Draft]) -> dict[str, Event]:
        """The first recordings of the drafts' keys. Raises KeyReused."""
        keys = self._streams[stream].keys if stream in self._streams else {}
        known = {draft.key: keys[draft.key] for draft in drafts if draft.key is not None and draft.key in keys}
        for draft in drafts:
            first = known.get(draft.key) if draft.key is not None else None
            if first is not None and (first.type, first.json) != (draft.type, draft.json):
                raise KeyReused(f"the key {draft.key!r} of {stream} was used before for another event")
        return known

    def _commit(self, stream: StreamId, drafts: Sequence[Draft], known: Mapping[str, Event]) -> list[Event]:
        """The commit and the announcement: one step without an await."""
        now = self._now()
        held = self._streams.get(stream)
        if held is None:
            held = self._streams[stream] = _Log(created_at=now)
        recorded, fresh = [], []
        self._transaction += 1
        for draft in drafts:
            event = known.get(draft.key) if draft.key is not None else None
            if event is None:
                place = Position(self._transaction, len(self._all) + 1)
                event = Event(
                    stream,
                    len(held.events) + 1,
                    place,
                    draft.type,
                    draft.json,
                    draft.at or now,
                    draft.request_id,
                    draft.traceparent,
                    draft.schema,
                )
                held.events.append(event)
                self._all.append(event)
                fresh.append(event)
                if draft.key is not None:
                    held.keys[draft.key] = event
            recorded.append(event)
        if fresh and self._announce is not None:
            try:
                self._announce(fresh)
            except Exception:  # boundary: announcing; the events are recorded, and viewers find them in the log
                log.exception("announcing %d events failed", len(fresh))
        return recorded


def _first(events: Iterable[Event], limit: int, types: Sequence[str]) -> list[Event]:
    return list(islice((event for event in events if not types or event.type in types), limit))
