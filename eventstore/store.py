"""Store: the contract of the log. Implementations in `stores/`; one contract suite runs over all of them.

append   the only way in. Durable when it returns: versions are dense per stream, given under the stream's own lock.
read     one page of one stream, in order, either way. Folds and replay are this call.
render   the same page as bytes that are ready to be sent, and where the log begins and ends. Transports are this call.
read_all one page over all streams, safe against transactions that commit out of order; for server-side followers.
heads    the last version of each of many streams in one query that touches no event.

After commit the store calls ``announce`` with the new events (`Announce`): that is how they reach live viewers. It must
not block and must not fail; losing an announcement costs a viewer a read, never an event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from eventstore.event import START, Event, NewEvent, Position, StreamId
from eventstore.page import PAGE as PAGE
from eventstore.page import Rendered, Span
from eventstore.shape import Shape

Announce = Callable[[Sequence[Event]], None]
Also = Callable[[Any], Awaitable[None]]
"""Work that joins an append's transaction: called with the store's connection (None in memory) before the commit."""


class Store(Protocol):
    """An append-only log of streams of events."""

    async def append(
        self, stream: StreamId, events: Sequence[NewEvent], *, expected: int | None = None, also: Also | None = None
    ) -> list[Event]:
        """Record ``events`` at the end of ``stream``, all or none, and return them as recorded, in order.

        expected  the version the stream must be at (0: must not exist); otherwise `Conflict`, and nothing is recorded.
        also      joins the transaction; if it raises, nothing is recorded and the caller gets what it raised. It is not
                  called when nothing new is recorded: it was done together with the first recording.
        An event whose key the stream already has is not recorded again: its first recording is returned in its place
        (an append of which every event is such a repetition succeeds whatever ``expected`` says). The same key with
        another type or other data: `KeyReused`. Errors: `Invalid` (before any I/O), `Sealed`, `Unavailable` (its detail
        says whether nothing was recorded or whether that is unknown).
        """
        ...

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
        """The first ``limit`` events with versions above ``after`` and below ``before``; empty for an unknown stream.

        types     only events of these; none: all. A page of rare types is found by going through the stream's range
                  until ``limit`` are found or it ends: some tenths of a second for a million events.
        backward  the newest first.
        Events come in the current schema of their category (`upcast.current`).
        """
        ...

    async def read_all(self, after: Position = START, limit: int = PAGE) -> list[Event]:
        """At most ``limit`` events of any stream behind ``after``, in an order that never changes afterwards.

        Events of transactions that are still open, or younger than an open one, are held back until they are certain.
        """
        ...

    async def heads(self, streams: Iterable[StreamId]) -> Mapping[StreamId, int]:
        """The last version of each stream that exists."""
        ...


class Renderer(Protocol):
    """What writes pages as bytes. The shipped stores are this, too."""

    async def render(self, stream: StreamId, shape: Shape, span: Span) -> Rendered:
        """What `Store.read` gives for ``span``, each event in ``shape``; at most about `page.PAGE_BYTES` of it.

        A page may be shorter than its limit, or empty, before the end: going on from `last` finds the rest.
        """
        ...


class Log(Store, Renderer, Protocol):
    """A store that renders."""


class Listed(NamedTuple):
    """A line of a list of streams: the stream, its last version, and when it was born (aware, UTC)."""

    stream: StreamId
    head: int
    created_at: datetime


class Index(Protocol):
    """What is known of the log without reading an event. The shipped stores are both a `Store` and an `Index`."""

    async def recent(self, category: str, limit: int = 100, before: StreamId | None = None) -> list[Listed]:
        """The youngest streams of a category, youngest first; those older than ``before`` for the next page."""
        ...

    async def epoch(self) -> str:
        """The life of this log: it changes when versions may start again, for instance after a restored backup."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers; otherwise raises `Unavailable`."""
        ...


class Keeper(Protocol):
    """What closes streams. The shipped stores are this, too."""

    async def seal(self, stream: StreamId) -> int:
        """Close ``stream`` for good: appends to it are `Sealed` from now on. Its last version; 0 for no such stream."""
        ...


async def replay(store: Store, stream: StreamId, after: int = 0) -> AsyncIterator[Event]:
    """Every event of ``stream`` after version ``after`` that is in the log by now, read page by page."""
    cursor = after
    while page := await store.read(stream, cursor):
        for event in page:
            yield event
        cursor = page[-1].version
        if len(page) < PAGE:
            return
