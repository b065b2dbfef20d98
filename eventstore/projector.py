"""Projector: the follower that keeps the snapshots: one row a stream with its folded state, a little behind the log.

Theory. Two rules make each row right, whatever is cut where. A row says which version it is folded to, and what it has
already is skipped: so events may come twice. And the cursor, stored in the transaction that writes the rows, never
passes an event that no row has: so none is left out. What may be late is only the writing:

    a stream is written at once when it is new, when it is over and when its labels change (lists filter by them), and
    otherwise once in ``every`` seconds, so that a state with thousands of tasks is not written twenty times a second.
    Until then the cursor waits before its first unwritten event. A status does not notice: it folds what came later.

A changed fold (`Category.version`) leaves the rows as they are, and lists go on with them, while they are made anew one
after the other, a page of events at a time (`eventstore.refold`), between the pages of the feed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from eventstore.cache import KEEP_BYTES, Cache
from eventstore.categories import BY_NAME
from eventstore.category import Category
from eventstore.errors import Invalid
from eventstore.event import Event, Position, StreamId
from eventstore.fold import At
from eventstore.follower import STEADY, Cursors, Follower, Rhythm, Save
from eventstore.refold import Refold, projected_if_possible
from eventstore.snapshots import Projected, Projection
from eventstore.states import TURN, folded_in_turns, thawn
from eventstore.store import PAGE, Store

log = logging.getLogger(__name__)

NAME = "projector"
EVERY = 1.0
"""Seconds between two writings of one stream that goes on."""
CHUNK_BYTES = 4_000_000
"""Of states that are written by one statement."""
REFOLD_PAUSE = 0.01

Categories = Mapping[str, Category[Any]]
Clock = Callable[[], float]


def projector(
    store: Store,
    rows: Projection,
    cursors: Cursors,
    owner: str,
    *,
    rhythm: Rhythm = STEADY,
    every: float = EVERY,
    categories: Categories = BY_NAME,
    clock: Clock = time.monotonic,
) -> Follower:
    """The follower that keeps ``rows``; any number of processes may run it. owner: names this process."""

    def begin(cursor: Position) -> Callable[..., Any]:
        return Projector(store, rows, cursor, every=every, categories=categories, clock=clock).handle

    return Follower(store, cursors, NAME, begin, owner=owner, rhythm=rhythm, clock=clock)


@dataclass(slots=True)
class _Due:
    """A stream with events that its row does not have. before: the cursor may not pass this position until it has."""

    at: At[Any]
    before: Position
    updated_at: datetime
    urgent: bool = False


class Projector:
    """One tenure, which begins at ``cursor``."""

    def __init__(
        self,
        store: Store,
        rows: Projection,
        cursor: Position,
        *,
        every: float = EVERY,
        categories: Categories = BY_NAME,
        clock: Clock = time.monotonic,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._store, self._rows, self._every, self._categories, self._clock = store, rows, every, categories, clock
        self._kept = Cache(keep_bytes)
        self._due: dict[StreamId, _Due] = {}  # in the order of `before`
        self._written: OrderedDict[StreamId, float] = OrderedDict()  # those of the last ``every`` seconds
        self._passed = self._saved = cursor
        self._saved_at = clock()
        self._refold = Refold(store, rows, categories)

    async def handle(self, events: Sequence[Event], save: Save) -> float | None:
        """See `Handle`."""
        grouped: dict[StreamId, list[Event]] = {}
        places: dict[StreamId, Position] = {}
        for event in events:
            if event.stream.category in self._categories:
                places.setdefault(event.stream, self._passed)
                grouped.setdefault(event.stream, []).append(event)
            self._passed = event.position
        bases = await self._bases(grouped)
        worked = 0
        for stream, news in grouped.items():
            base = bases.get(stream)
            if base is not None:
                await self._fold(stream, base, news, places[stream])
            worked += len(news)
            if worked >= TURN:
                await asyncio.sleep(0)  # whoever is served by this process has a turn, too
                worked = 0
        await self._write([*await self._chosen(), *await self._refold.step()], save)
        return self._again()

    async def _bases(self, streams: Mapping[StreamId, Sequence[Event]]) -> dict[StreamId, At[Any]]:
        """What to fold on: from memory, else from the rows. None for streams that are to be folded from nothing."""
        found: dict[StreamId, At[Any]] = {}
        missing = []
        for stream in streams:
            due = self._due.get(stream)
            at = due.at if due is not None else self._kept.get(stream)
            if at is not None:
                found[stream] = at
            else:
                missing.append(stream)
        stored = await self._rows.stored(missing) if missing else {}
        for stream in missing:
            category, row = self._categories[stream.category], stored.get(stream)
            if row is None:
                found[stream] = At(category.fold.initial, 0)
                continue
            thawed = thawn(category, row.snapshot) if row.floor or row.snapshot.fold == category.version else None
            if thawed is not None:
                found[stream] = thawed
            elif not row.floor:
                # Of another fold: it is made anew up to the log's end, these events included. That it is so late is
                # written in the row, so the cursor may pass. With events gone it stays as it is for ever.
                self._refold.urge(stream)
        return found

    async def _fold(self, stream: StreamId, base: At[Any], news: Sequence[Event], before: Position) -> None:
        category = self._categories[stream.category]
        at = base
        while at.version + 1 < news[0].version:  # its row was lost: only what is in the log is certain
            page = await self._store.read(stream, at.version, min(PAGE, news[0].version - 1 - at.version))
            if not page or page[0].version != at.version + 1:
                log.warning("%s cannot be folded: its events before version %d are gone", stream, news[0].version)
                return
            at = await folded_in_turns(category, page, at)
        fresh = [event for event in news if event.version > at.version]
        if not fresh and at is base:
            return
        at = await folded_in_turns(category, fresh, at)
        self._kept.put(stream, category, at, sum(len(event.json) for event in fresh))
        due = self._due.setdefault(stream, _Due(at, before, news[-1].at))
        due.at, due.updated_at = at, news[-1].at
        due.urgent = (
            due.urgent
            or base.version == 0
            or category.labels(base.state) != category.labels(at.state)
            or category.is_final(base.state) != category.is_final(at.state)
        )

    async def _chosen(self) -> list[Projected]:
        """The rows to be written now; their streams are not due any more."""
        now = self._clock()
        while self._written and next(iter(self._written.values())) <= now - self._every:
            self._written.popitem(last=False)
        chosen = [stream for stream, due in self._due.items() if due.urgent or stream not in self._written]
        rows = []
        for number, stream in enumerate(chosen, 1):
            if number % TURN == 0:
                await asyncio.sleep(0)
            due = self._due.pop(stream)
            self._written.pop(stream, None)
            self._written[stream] = now
            rows += projected_if_possible(self._categories[stream.category], stream, due.at, due.updated_at)
        return rows

    async def _write(self, rows: Sequence[Projected], save: Save) -> None:
        upto = next(iter(self._due.values())).before if self._due else self._passed
        now = self._clock()
        if not rows and (upto == self._saved or now - self._saved_at < self._every):
            return
        chunks = list(_chunks(rows)) or [[]]
        for number, chunk in enumerate(chunks, 1):
            place = upto if number == len(chunks) else self._saved
            try:
                await save(partial(self._rows.write, chunk), upto=place)
            except Invalid:
                await self._write_singly(chunk, save)
                await save(upto=place)
        self._saved, self._saved_at = upto, now

    async def _write_singly(self, rows: Sequence[Projected], save: Save) -> None:
        """The database refused one of them; the others must not stand still for it."""
        for row in rows:
            try:
                await save(partial(self._rows.write, [row]), upto=self._saved)
            except Invalid as error:
                log.warning("%s stays without a snapshot and is folded from its events: %s", row.stream, error.detail)

    def _again(self) -> float | None:
        """When there will be something to do though nothing comes."""
        if not self._refold.is_over:
            return REFOLD_PAUSE
        now = self._clock()
        waits = [self._written[stream] + self._every - now for stream in self._due]
        if self._saved != self._passed:
            waits.append(self._saved_at + self._every - now)
        return max(0.0, min(waits)) if waits else None


def _chunks(rows: Sequence[Projected]) -> Iterator[list[Projected]]:
    chunk: list[Projected] = []
    size = 0
    for row in rows:
        if chunk and size + len(row.snapshot.data) > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.snapshot.data)
    if chunk:
        yield chunk
