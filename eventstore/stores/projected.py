"""MemoryCursors and MemorySnapshots: the twins of the tables ``followers`` and ``states``, beside a `MemoryStore`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from eventstore.event import START, Position, StreamId
from eventstore.follower import Held, Superseded
from eventstore.snapshots import LAST, NEAR, Line, Outdated, Projected, Query, Reading, Stored
from eventstore.store import PAGE, Also
from eventstore.stores.memory import MemoryStore

NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Follower:
    cursor: Position = START
    owner: str = ""
    leased_to: datetime = NEVER


class MemoryCursors:
    """`Cursors` of ``store``. now: the clock that leases run by."""

    def __init__(self, store: MemoryStore, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._now = now
        self._rows: defaultdict[str, _Follower] = defaultdict(_Follower)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def claim(self, name: str, owner: str, seconds: float) -> Held | None:
        """See `Cursors.claim`."""
        head = START
        while page := await self._store.read_all(head):
            head = page[-1].position
        async with self._locks[name]:
            row = self._rows[name]
            if row.owner != owner and row.leased_to >= self._now():
                return None
            row.owner, row.leased_to = owner, self._now() + timedelta(seconds=seconds)
            return Held(row.cursor, max(head, row.cursor))

    async def save(
        self, name: str, owner: str, seconds: float, before: Position, after: Position, also: Also | None = None
    ) -> None:
        """See `Cursors.save`. ``also`` gets None."""
        async with self._locks[name]:
            row = self._rows[name]
            if row.owner != owner or row.cursor != before:
                raise Superseded(f"{owner} does not follow {name} any more")
            if also is not None:
                await also(None)
            row.cursor, row.leased_to = after, self._now() + timedelta(seconds=seconds)

    async def release(self, name: str, owner: str) -> None:
        """See `Cursors.release`."""
        async with self._locks[name]:
            row = self._rows[name]
            if row.owner == owner:
                row.owner, row.leased_to = "", NEVER


class MemorySnapshots:
    """`Snapshots` and `Projection` of ``store``, which keeps every event: no stream has a floor."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._rows: dict[StreamId, Projected] = {}

    async def latest(
        self, stream: StreamId, fold: int, after: int = 0, until: int = LAST, limit: int = PAGE
    ) -> Reading:
        """See `Snapshots.latest`."""
        row = self._rows.get(stream)
        beyond = after + NEAR if after else 0
        found = row.snapshot if row is not None and row.snapshot.fold == fold else None
        if found is not None and not beyond < found.version <= until:
            found = None
        begin = found.version if found is not None else after
        events = await self._store.read(stream, begin, max(0, min(limit, until - begin)))
        head = (await self._store.heads([stream])).get(stream, 0)
        return Reading(found, events, 0, head)

    async def page(self, query: Query) -> list[Line]:
        """See `Snapshots.page`."""
        listed = await self._store.recent(query.category, PAGE**2, query.before)
        lines = []
        for stream, head, born_at in listed:
            row = self._rows.get(stream)
            if query.is_filtered and not (row is not None and _meets(query, row, born_at)):
                continue
            lines.append(Line(stream, head, row.snapshot if row is not None else None))
        return lines[: query.limit]

    async def stored(self, streams: Iterable[StreamId]) -> Mapping[StreamId, Stored]:
        """See `Projection.stored`."""
        await asyncio.sleep(0)
        return {stream: Stored(self._rows[stream].snapshot, 0) for stream in streams if stream in self._rows}

    async def write(self, rows: Sequence[Projected], joined: Any) -> None:
        """See `Projection.write`."""
        await asyncio.sleep(0)
        for row in rows:
            kept = self._rows.get(row.stream)
            if kept is None or kept.snapshot.fold < row.snapshot.fold or kept.snapshot.version < row.snapshot.version:
                self._rows[row.stream] = row

    async def outdated(self, category: str, fold: int, after: tuple[int, int], limit: int) -> Outdated:
        """See `Projection.outdated`."""
        await asyncio.sleep(0)
        found = sorted(
            (row.snapshot.fold, number, stream)
            for number, (stream, row) in enumerate(self._rows.items(), 1)
            if stream.category == category and row.snapshot.fold < fold and (row.snapshot.fold, number) > after
        )[:limit]
        return Outdated([stream for _, _, stream in found], found[-1][:2] if len(found) == limit else None)


def _meets(query: Query, row: Projected, born_at: datetime) -> bool:
    status, project = row.labels
    return (
        query.status in (None, status)
        and query.project in (None, project)
        and (query.since is None or born_at >= query.since)
        and (query.until is None or born_at < query.until)
    )
