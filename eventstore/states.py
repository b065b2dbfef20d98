"""States: the state of any stream, exact at the moment of the call, or as of any version.

A state is folded from the log, on the nearest state that is known: what this process folded last time (`Cache`), else
the snapshot that the projector stored (`Snapshots`), else nothing. Snapshot, events and head of the stream come in
one statement, so an answer costs one round trip and a few events, however long the stream is. Both are caches and never
a truth: a snapshot that cannot be read, or of another fold, is passed by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from eventstore.cache import KEEP_BYTES, Cache
from eventstore.categories import BY_NAME
from eventstore.category import Category
from eventstore.errors import Gone, NotFound
from eventstore.event import Event, StreamId
from eventstore.fold import At
from eventstore.frozen import thaw
from eventstore.snapshots import LAST, Line, Query, Reading, Snapshot, Snapshots
from eventstore.store import PAGE, Store
from eventstore.upcast import current

AT_ONCE = 4
"""Lines of one list that are folded up at the same time: half of the connections that there are."""


TURN = 50
"""Events, or states, that are worked on at a stretch: some milliseconds."""


class Found(NamedTuple):
    """A page of a list. next: the ``before`` of the next page; None: that was the last one."""

    runs: list[tuple[StreamId, At[Any]]]
    next: StreamId | None


class States:
    """Folds streams of ``store`` by their category.

    snapshots   what the projector keeps; None: every first look at a stream folds it from nothing, and nothing can be
                listed. keep_bytes: of `Cache`.
    """

    def __init__(
        self,
        store: Store,
        snapshots: Snapshots | None = None,
        *,
        keep_bytes: int = KEEP_BYTES,
        categories: Mapping[str, Category[Any]] = BY_NAME,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._categories = categories
        self._kept = Cache(keep_bytes)
        self._looking_back = asyncio.Semaphore(1)

    async def at(self, stream: StreamId, version: int | None = None) -> At[Any]:
        """The state at the end of the log (version 0: no such stream), or as of ``version``, 1 and up.

        Raises Unavailable; for a given version NotFound (the stream has not come so far) and Gone (its events have left
        the log, and no snapshot is that old).
        """
        if version is None:
            return await self._until(stream, LAST)
        # Far back there is no snapshot, and it takes as long as the stream is: one at a time does not stop the others.
        async with self._looking_back:
            at = await self._until(stream, min(version, LAST))
        if at.version < version:
            head = (await self._store.heads([stream])).get(stream, 0)
            raise NotFound(
                f"{stream} has come to version {head}, not to {version}" if head else f"{stream} has no events yet",
                fix=f"Ask for a version from 1 to {head}." if head else "Check the id, or start the run.",
            )
        return at

    async def _until(self, stream: StreamId, until: int) -> At[Any]:
        kept = self._kept.get(stream)
        if kept is not None and kept.version > until:
            kept = None
        at, grown = await self._fold(stream, kept, until)
        if at is None and kept is not None:
            # What is between it and the log has left the log; or it is of another log: a backup was restored under us.
            self._kept.drop(stream)
            at, grown = await self._fold(stream, None, until)
        if at is None:
            raise await self._gone(stream, until)
        if at.version:
            self._kept.put(stream, self._categories[stream.category], at, grown)
        return at

    def kept(self, stream: StreamId) -> At[Any]:
        """What was known when the log was last read: for answers while the store is away. Reads nothing."""
        return self._kept.get(stream) or At(self._categories[stream.category].fold.initial, 0)

    def forget(self, stream: StreamId) -> None:
        """What was known of it is of another log: fold from nothing next time."""
        self._kept.drop(stream)

    async def page(self, query: Query) -> Found:
        """The streams that ``query`` asks for, each with its exact state. A page may be short, and not be the last.

        A line whose exact state does not meet the query any more is left out. Raises Unavailable, and NotFound for a
        ``before`` that does not exist.
        """
        if self._snapshots is None:
            raise TypeError("these states were made without snapshots: they cannot be listed")
        lines = await self._snapshots.page(query)
        if not lines and query.before is not None and not await self._store.heads([query.before]):
            raise NotFound(f"there is no run {query.before} to go on from", fix="Send the `next` of the page before.")
        found = {line.stream: self._known(line) for line in lines}
        turns = asyncio.Semaphore(AT_ONCE)

        async def fold_up(line: Line) -> None:
            async with turns:
                with suppress(Gone):  # of a stream whose events left the log before anybody kept its state
                    found[line.stream] = await self._folded_up(line)

        # All of them are waited for, whatever happens to one: nothing goes on behind the back of who asked.
        behind = [fold_up(line) for line in lines if found[line.stream] is None]
        for failure in await asyncio.gather(*behind, return_exceptions=True):
            if failure is not None:
                raise failure
        runs = [(stream, at) for stream, at in found.items() if at is not None and self._meets(query, at)]
        return Found(runs, lines[-1].stream if len(lines) == query.limit else None)

    async def _fold(self, stream: StreamId, since: At[Any] | None, until: int) -> tuple[At[Any] | None, int]:
        """(the state at ``until`` or at the end, bytes folded in). No state: ``since`` does not fit the log."""
        category = self._categories[stream.category]
        at = since or At(category.fold.initial, 0)
        grown = 0
        reading = await self._read(stream, category.version, at.version, until)
        page = reading.events
        if reading.head < at.version:
            return None, 0
        if reading.snapshot is not None:
            thawed = thawn(category, reading.snapshot, lenient=reading.floor > 0)
            if thawed is None:  # a snapshot that cannot be read: as if there were none
                page = await self._store.read(stream, at.version, _limit(at, until))
            else:
                at, grown = thawed, len(reading.snapshot.data)
        while page:
            if page[0].version != at.version + 1:
                return None, 0
            limit = _limit(at, until)
            at = await folded_in_turns(category, page, at)
            grown += sum(len(event.json) for event in page)
            if len(page) < limit or at.version >= until:
                break
            page = await self._store.read(stream, at.version, _limit(at, until))
        if at.version < min(reading.head, until):
            return None, 0
        return at, grown

    async def _read(self, stream: StreamId, fold: int, after: int, until: int) -> Reading:
        limit = min(PAGE, until - after)
        if self._snapshots is not None:
            return await self._snapshots.latest(stream, fold, after, until, limit)
        events = await self._store.read(stream, after, limit) if limit else []
        return Reading(None, events, 0, events[-1].version if events else after)

    async def _gone(self, stream: StreamId, until: int) -> Gone:
        reading = await self._read(stream, self._categories[stream.category].version, 0, LAST)
        if until == LAST or reading.snapshot is None:
            return Gone(
                f"the first {reading.floor} events of {stream} have left the log, and no snapshot of it was kept"
            )
        return Gone(
            f"{stream} can be told from version {reading.snapshot.version} to {reading.head}, not as of {until}: "
            f"its first {reading.floor} events have left the log"
        )

    def _known(self, line: Line) -> At[Any] | None:
        """The exact state, if nothing has to be read for it."""
        kept = self._kept.get(line.stream)
        if kept is not None and kept.version >= line.head:
            return kept
        if line.snapshot is None or line.snapshot.version < line.head:
            return None
        return thawn(self._categories[line.stream.category], line.snapshot)

    async def _folded_up(self, line: Line) -> At[Any]:
        """While a changed fold makes the snapshots anew, a list goes on with the old ones."""
        category = self._categories[line.stream.category]
        if line.snapshot is not None and line.snapshot.fold != category.version:
            thawed = thawn(category, line.snapshot)
            page = await self._store.read(line.stream, thawed.version) if thawed is not None else []
            if thawed is not None and 0 < len(page) < PAGE and page[0].version == thawed.version + 1:
                return folded(category, page, thawed)
        return await self.at(line.stream)

    def _meets(self, query: Query, at: At[Any]) -> bool:
        status, project = self._categories[query.category].labels(at.state)
        return query.status in (None, status) and query.project in (None, project)


def folded(category: Category[Any], events: Iterable[Event], since: At[Any]) -> At[Any]:
    """``events`` folded on ``since``, whatever schema they were written in."""
    return category.fold((current(category, event) for event in events), since)


async def folded_in_turns(category: Category[Any], events: Sequence[Event], since: At[Any]) -> At[Any]:
    """The same, letting others have their turn in between: a page takes some tens of milliseconds to fold."""
    at = since
    for begin in range(0, len(events), TURN):
        if begin:
            await asyncio.sleep(0)
        at = folded(category, events[begin : begin + TURN], at)
    return at


def thawn(category: Category[Any], snapshot: Snapshot, *, lenient: bool = False) -> At[Any] | None:
    """The state of a snapshot; None if it is none of this category's. lenient: see `thaw`."""
    try:
        return At(thaw(category, snapshot.data, lenient=lenient), snapshot.version)
    except ValueError:
        return None


def _limit(at: At[Any], until: int) -> int:
    return min(PAGE, until - at.version)
