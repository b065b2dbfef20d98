"""verify(): is the log what it was when it was written, and is what was folded from it what it folds to?

Everything is read again from the first event on and compared with all that was kept: the versions (1, 2, 3 ...), the
chain of hashes, the order over all streams, the stream's own counter, and the stored state, field by field. Nobody has
to stop for it: a page of streams is looked at in one snapshot, in which whatever is appended meanwhile does not exist.

What it cannot know: who could change an event and make every later hash of its stream anew, and the counters, is found
only by comparing with a copy that was exported before. The last hash of a stream is enough for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import IsolationLevel

from eventstore.archive import Archived, Tail
from eventstore.categories import BY_NAME
from eventstore.category import Category
from eventstore.errors import Invalid, NotFound
from eventstore.event import Event, Position, StreamId
from eventstore.fold import At
from eventstore.frozen import thaw
from eventstore.snapshots import projected
from eventstore.stores import whole
from eventstore.stores.connections import Connection, fetch
from eventstore.stores.snapshots import forget, keep
from eventstore.stores.statements import utc
from eventstore.stores.whole import Place
from eventstore.upcast import current

STATES = """
SELECT sid, version, fold, category, id, status, project, born_at, updated_at, state::text
FROM states WHERE sid = ANY (%s)
"""

GUARDS = """
SELECT c.relname::text,
       EXISTS (SELECT FROM pg_trigger t
               WHERE t.tgrelid = c.oid AND t.tgname = 'append_only' AND t.tgenabled IN ('O', 'A')),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
               AND pg_get_indexdef(i.indexrelid) LIKE '%(part, sid, key)%')
FROM pg_class c
WHERE c.oid = 'events'::regclass OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)
ORDER BY c.oid
"""
# It has to look at all of them, so let it: two scans and a hash join.
LOST_EVENT = """
SELECT e.sid, e.version FROM events e
WHERE NOT EXISTS (SELECT FROM streams s WHERE s.sid = e.sid AND s.part = e.part) LIMIT 1
"""
LOST_STATE = """
SELECT sid, version, fold FROM states p
WHERE NOT EXISTS (SELECT FROM streams s WHERE s.sid = p.sid) ORDER BY sid LIMIT 1
"""


class Difference(NamedTuple):
    """The first thing that is wrong with a stream, in one sentence; stream "": with the log as a whole.

    folded: it is about what was folded from the log, which can be made again; otherwise about the log itself.
    """

    stream: str
    words: str
    folded: bool = False

    def __str__(self) -> str:
        return f"{self.stream}: {self.words}" if self.stream else self.words


@dataclass(slots=True)
class Report:
    """What was looked at.

    states    stored states that were compared.
    missing   streams without a stored state. That is no difference: readers fold such a stream from its events.
    unfolded  streams whose stored state another fold made, or of a kind that nobody knows: nothing to compare.
    gone      streams whose events have left the log; of them only the state is left.
    mended    differences that are none any more. made: missing states that were stored.
    moved     wrong states that somebody else wrote meanwhile: they were left alone, look again.
    """

    streams: int = 0
    events: int = 0
    states: int = 0
    missing: int = 0
    unfolded: int = 0
    gone: int = 0
    mended: int = 0
    made: int = 0
    moved: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def repaired(self) -> int:
        """States that were made anew."""
        return self.mended + self.made


class Stored(NamedTuple):
    """A row of states."""

    sid: int
    version: int
    fold: int
    category: str
    id: str
    status: str
    project: str | None
    born_at: datetime
    updated_at: datetime
    state: bytes


def _nobody(events: int) -> None:
    """Nobody is told how far it is."""


async def verify(
    dsn: str, names: Sequence[StreamId] | None = None, *, repair: bool = False, told: Callable[[int], None] = _nobody
) -> Report:
    """Check these streams; None: all there are, and the tables. repair: make wrong and missing states anew, as the
    owner of the tables. Raises NotFound, Unavailable, CannotStart."""
    report = Report()
    async with whole.connected(dsn) as connection, whole.connected(dsn, owner=repair) as second:
        writing = second if repair else None
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        async for page in _pages(connection, names):
            await _check_page(connection, writing, page, report, told)
        if names is None:
            report.differences += await _check_tables(connection, writing, report)
    return report


async def _pages(connection: Connection, names: Sequence[StreamId] | None) -> AsyncIterator[list[Place]]:
    if names is None:
        async for page in whole.places(connection):
            yield page
        return
    for name in names:
        place = await whole.place_of(connection, name)
        if place is None:
            raise NotFound(f"there is no {name} in the log", fix="`foldstream ls` names the newest runs.")
        yield [place]


async def _check_page(
    connection: Connection,
    writing: Connection | None,
    page: Sequence[Place],
    report: Report,
    told: Callable[[int], None],
) -> None:
    """Check these streams as of one moment; repair each at once, so that no more than one state is kept in memory."""
    async with connection.transaction():
        # The lock first, then the snapshot: a partition that gc detaches is in both or in neither. What the page said
        # is from before either.
        await connection.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        places = await whole.places_again(connection, page)
        rows = await fetch(connection, STATES, ([place.sid for place in places],))
        stored = {row[0]: _stored(row) for row in rows}
        check: Check | None = None
        try:
            async for place, events in whole.events(connection, places):
                if check is None or check.place is not place:
                    await _close(check, writing, report)
                    check = Check(place, stored.get(place.sid))
                check.take(events)
                report.events += len(events)
                told(report.events)
            await _close(check, writing, report)
        except Invalid as error:
            report.differences.append(Difference("", f"{error.detail}; the streams after it were not looked at"))


async def _close(check: Check | None, writing: Connection | None, report: Report) -> None:
    if check is None:
        return
    check.close()
    report.streams += 1
    report.gone += check.is_gone
    report.states += check.compared
    report.missing += check.is_missing
    report.unfolded += not (check.compared or check.is_missing)
    if check.found is not None:
        report.differences.append(check.found)
    if writing is not None:
        await _repair(writing, check, report)


def _stored(row: Sequence[Any]) -> Stored:
    sid, version, fold, category, id_, status, project, born_at, updated_at, state = row
    project = project.decode() if project is not None else None
    texts = (category.decode(), id_.decode(), status.decode(), project)
    return Stored(sid, version, fold, *texts, utc(born_at), utc(updated_at), state)


class Check:
    """One stream, from its first event to its last. Pure. found: the first difference."""

    def __init__(self, place: Place, stored: Stored | None) -> None:
        self.place = place
        self.found: Difference | None = None
        self.compared = False
        self.category: Category[Any] | None = BY_NAME.get(place.stream.category)
        self.at: At[Any] | None = At(self.category.fold.initial, 0) if self.category else None
        self.last_at: datetime | None = None
        self.stored = stored
        self._tail = Tail(place.stream)
        self._last = Position(-1, -1)
        if 0 < place.floor < place.version:
            self._say(f"its events up to version {place.floor} are said to have left the log; only whole streams leave")

    @property
    def is_gone(self) -> bool:
        """Its events have left the log (or are about to)."""
        return self.place.floor == self.place.version

    @property
    def is_missing(self) -> bool:
        """No state is stored of it, and its events would make one."""
        return self.stored is None and self.category is not None and not self.is_gone

    def take(self, page: Sequence[Archived]) -> None:
        """The next events."""
        if self.found or self.is_gone:
            return
        for archived in page:
            try:
                self._tail.take(archived)
            except ValueError as error:
                self._say(str(error))
                return
            event = archived.event
            if event.version > self.place.version:
                self._say(
                    f"its row says that {self.place.version} is its last version, and version {event.version} is there"
                )
                return
            if event.position <= self._last:
                self._say(f"in the order of all streams version {event.version} does not come after the one before it")
                return
            self._last = event.position
        self._fold([archived.event for archived in page])

    def close(self) -> None:
        """There are no more events."""
        if self.found:
            return
        if self.is_gone:
            self._close_gone()
        elif self._tail.version != self.place.version:
            there = f"version {self._tail.version} is the last" if self._tail.version else "no event is"
            self._say(f"its row says that {self.place.version} is its last version, and {there} that is there")
        elif self._last.transaction > self.place.tx:
            self._say(f"its row says transaction {self.place.tx}, and its last event is of {self._last.transaction}")
        elif self.stored and self.stored.version > self.place.version:
            self._say(f"a state of version {self.stored.version} is stored, and there is none yet", folded=True)

    def _close_gone(self) -> None:
        stored, category = self.stored, self.category
        if category is None:
            return
        if stored is None or stored.version != self.place.version:
            self._say(f"its events have left the log, and no state of version {self.place.version} is stored")
            return
        self.compared = stored.fold == category.version
        try:
            thaw(category, stored.state)
        except ValueError as error:
            if self.compared:
                self._say(f"its events have left the log, and its state cannot be read: {error}")

    def _fold(self, events: Sequence[Event]) -> None:
        if self.category is None or self.at is None or not events:
            return
        stop = len(events)
        if self.stored and events[0].version <= self.stored.version <= events[-1].version:
            stop = self.stored.version - events[0].version + 1
        self._go_on(self.category, self.at, events[:stop])
        if self.stored and self.at.version == self.stored.version:
            self._compare(self.category, self.stored)
        if events[stop:]:
            self._go_on(self.category, self.at, events[stop:])

    def _go_on(self, category: Category[Any], at: At[Any], events: Sequence[Event]) -> None:
        self.at = category.fold((current(category, event) for event in events), since=at)
        self.last_at = events[-1].at

    def _compare(self, category: Category[Any], stored: Stored) -> None:
        assert self.at is not None
        if stored.fold != category.version:
            return
        self.compared = True
        try:
            state = thaw(category, stored.state)
        except ValueError as error:
            self._say(f"its stored state cannot be read: {error}", folded=True)
            return
        labels = category.labels(self.at.state)
        pairs = [
            *((name, getattr(state, name), getattr(self.at.state, name)) for name in category.state.__struct_fields__),
            ("category", stored.category, category.name),
            ("id", stored.id, self.place.stream.id),
            ("status label", stored.status, labels.status),
            ("project label", stored.project, labels.project),
            ("time of birth", stored.born_at, self.place.created_at),
            ("time of its last event", stored.updated_at, self.last_at),
        ]
        for name, there, folded in pairs:
            if there != folded:
                self._say(
                    f"its stored state at version {stored.version} has the {name} {_short(there)}, and its events make "
                    f"{_short(folded)}",
                    folded=True,
                )
                return

    def _say(self, words: str, *, folded: bool = False) -> None:
        self.found = Difference(str(self.place.stream), words, folded)


def _short(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


async def _repair(writing: Connection, check: Check, report: Report) -> None:
    """Store the state that the events make, if none is stored, or in place of a wrong one.

    Never in place of one that was not looked at: the projector may have stored a newer one meanwhile, and it would not
    store it again.
    """
    wrong = check.found is not None and check.found.folded
    missing = check.found is None and check.is_missing
    if not (wrong or missing) or check.category is None or check.at is None or check.last_at is None:
        return
    try:
        row = projected(check.category, check.place.stream, check.at, check.last_at)
        async with writing.transaction():
            if check.stored is not None and not await forget(writing, *check.stored[:3]):
                report.moved += 1
                return
            await keep(writing, [row])
    except (ValueError, psycopg.DataError):
        return  # what cannot be stored stays as it is, and is counted as that
    report.mended += wrong
    report.made += missing


async def _check_tables(connection: Connection, writing: Connection | None, report: Report) -> list[Difference]:
    """What no single stream shows."""
    found = []
    for name, guarded, unique in await fetch(connection, GUARDS):
        if not guarded:
            found.append(Difference("", f"{name.decode()} has lost its guard: the trigger append_only is off or gone"))
        if not unique:
            found.append(Difference("", f"{name.decode()} has lost its unique index over the keys"))
    async with connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = on")
        lost = await fetch(connection, LOST_EVENT)
    for sid, version in lost:
        found.append(Difference("", f"version {version} of stream {sid} is there, and that stream is not"))
    for sid, version, fold in await fetch(connection, LOST_STATE):
        found.append(Difference("", f"a state of stream {sid} is stored, and that stream is not there", True))
        if writing is not None:
            report.mended += await forget(writing, sid, version, fold)
    return found
