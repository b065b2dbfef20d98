"""gc(): keeps the table of events small enough to be fast, and forgets what is old, never half a stream.

1. *The birth partition is changed* when it has served long enough or has grown too large. A stream's events all go
   where it was born, so partitions differ by when their streams began, and an old one falls silent by and by.
2. *Silent streams are sealed*: those to which nothing was appended for the whole retention, whether their last event
   was a final one or not. (If only finished ones were sealed, one run that died without a word would keep its partition
   for ever; and who still has something to say after so long gets a clear refusal instead of half a history.)
3. *A partition leaves as a whole*, when all its streams are sealed and silent and every follower has read it. What
   stays of a stream is its row, its version and its last state, so its status answers as before; `floor` says that the
   events have gone.

Every step is finished before the next one begins, and each can be repeated; who was killed in the middle runs again:
states are stored -> (an export is complete) -> floors are set -> the partition is detached -> its table is dropped.
Nobody else has to stop: the locks taken are those that neither reads nor appends wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import psycopg

from eventstore.archive import Archived, Tail
from eventstore.categories import BY_NAME
from eventstore.errors import CannotStart, Invalid
from eventstore.fold import At
from eventstore.snapshots import Projected, projected
from eventstore.stores import whole
from eventstore.stores.connections import Connection, fetch, first_line
from eventstore.stores.snapshots import keep
from eventstore.stores.whole import Place
from eventstore.upcast import current

LOCK = 0x676321  # "gc!": the key of the advisory lock that one gc holds
ATTEMPTS = 5
LOCK_SECONDS = 2
"""Seconds that a change of the partitions waits for its turn; nobody waits behind it for longer."""
PATIENCE = 60.0
CHUNK_BYTES = 4_000_000
"""Of states that are stored by one statement."""
RANGE = 10_000
"""Streams that are looked at in one transaction while sealing."""

LOOK = "`foldstream verify` says what is wrong"

NOW = "SELECT clock_timestamp()"
BIRTH = """
SELECT m.birth_part, p.born_at, EXISTS (SELECT FROM events e WHERE e.part = m.birth_part),
       (SELECT greatest(c.reltuples, pg_stat_get_live_tuples(c.oid))::bigint FROM pg_class c
        WHERE c.oid = to_regclass('events_' || m.birth_part))
FROM meta m JOIN partitions p ON p.part = m.birth_part
"""
# A stream that somebody appends to at this moment is not silent: it is passed over.
SEAL = """
UPDATE streams SET sealed_at = clock_timestamp() WHERE sid IN (
    SELECT sid FROM streams
    WHERE sid > %(after)s AND sid <= %(until)s AND version > 0 AND sealed_at IS NULL AND updated_at < %(limit)s
    ORDER BY sid FOR NO KEY UPDATE SKIP LOCKED)
"""
SILENT = "SELECT count(*) FROM streams WHERE version > 0 AND sealed_at IS NULL AND updated_at < %(limit)s"
# One look at all streams. In a dry run what SEAL and a change of the birth partition would do is taken for done.
PARTITIONS = """
SELECT p.part, count(s.sid), coalesce(sum(s.version - s.floor), 0)::bigint, count(s.sid) FILTER (WHERE s.stays),
       min(s.category || '-' || s.id) FILTER (WHERE s.stays)
FROM partitions p LEFT JOIN (
    SELECT *, updated_at >= %(limit)s OR (sealed_at IS NULL AND NOT %(dry)s) AS stays FROM streams WHERE version > 0
) s USING (part)
WHERE p.dropped_at IS NULL AND (%(rotates)s OR p.part <> (SELECT birth_part FROM meta))
GROUP BY p.part ORDER BY p.part
"""
# How a partition hangs on the table of events: NULL not at all, true: it is just being detached.
ATTACHED = """
SELECT to_regclass('events_' || p.part) IS NOT NULL,
       (SELECT i.inhdetachpending FROM pg_inherits i
        WHERE i.inhrelid = to_regclass('events_' || p.part) AND i.inhparent = 'events'::regclass)
FROM partitions p WHERE p.part = %s
"""
UNREAD = """
SELECT f.name FROM followers f, (
    SELECT tx, position FROM events WHERE part = %s ORDER BY tx DESC, position DESC LIMIT 1
) e WHERE (f.tx, f.position) < (e.tx, e.position) ORDER BY f.name LIMIT 1
"""
FOLDED = "SELECT sid, version, fold FROM states WHERE sid = ANY (%s)"
# A row without events (its append was refused) would be born into a partition that is gone.
EMPTY = "DELETE FROM streams WHERE part = %s AND version = 0"
FLOOR = "UPDATE streams SET floor = version WHERE part = %s AND floor < version AND sealed_at IS NOT NULL"
HAS_MORE = """
SELECT EXISTS (SELECT FROM streams WHERE part = %s AND version > 0 AND (floor < version OR sealed_at IS NULL))
"""
# It is attached again: the events of its sealed streams are there after all.
UNFLOOR = "UPDATE streams SET floor = 0 WHERE part = %s AND floor > 0"
DROPPED = "UPDATE partitions SET dropped_at = clock_timestamp() WHERE part = %s"


@dataclass(frozen=True, slots=True)
class Policy:
    """days: of silence after which a stream's events may leave; None: they stay for ever. partition_days,
    partition_events: the age and the size at which streams are born into a new partition."""

    days: float | None = None
    partition_days: float = 30
    partition_events: int = 10_000_000


class Part(NamedTuple):
    """What became of a partition. did: dropped, kept, would be dropped (in a dry run) or failed (run gc again)."""

    part: int
    streams: int
    events: int
    did: str
    why: str = ""


@dataclass(slots=True)
class Report:
    """rotated: the new birth partition (in a dry run 0: there would be one); None: the old one still serves, or
    ``trouble`` says why it could not be changed. sealed: streams that were (would be) sealed."""

    rotated: int | None = None
    sealed: int = 0
    trouble: str = ""
    partitions: list[Part] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Something is left to be done by another run."""
        return bool(self.trouble) or any(part.did == "failed" for part in self.partitions)


class Shelf(Protocol):
    """Where the events of a partition are kept before they go."""

    async def put(self, part: int, events: AsyncIterator[Archived]) -> None:
        """Keep them, completely and durably, or raise. Called again after a crash."""
        ...

    def has(self, part: int) -> bool:
        """That was done."""
        ...


async def gc(
    dsn: str, policy: Policy, *, dry_run: bool = False, shelf: Shelf | None = None, patience: float = PATIENCE
) -> Report:
    """Do what ``policy`` says, as the owner of the tables. Raises CannotStart, Unavailable, and what ``shelf`` raises.

    patience   seconds that a detach waits for those who began to read before it. Nobody waits behind it. A change of
               the birth partition waits for less: LOCK_SECONDS, some times.
    """
    report = Report()
    async with whole.connected(dsn, owner=True, name="foldstream gc") as connection, _alone(connection):
        await connection.execute("SET enable_seqscan = on")  # it looks at all streams, and knows it
        await _rotate(connection, policy, report, dry_run=dry_run, patience=patience)
        if policy.days is None:
            return report
        [(now,)] = await fetch(connection, NOW)
        limit = now - timedelta(days=policy.days)
        report.sealed = await _seal(connection, limit, dry_run=dry_run)
        burial = _Burial(connection, dry_run, shelf, patience)
        asked = {"limit": limit, "dry": dry_run, "rotates": dry_run and report.rotated is not None}
        for part, streams, events, open_, example in await fetch(connection, PARTITIONS, asked):
            if open_:
                some = f"{example.decode()} is" if open_ == 1 else f"{open_} streams such as {example.decode()} are"
                did, why = "kept", f"{some} open or younger than {policy.days:g} days"
            else:
                did, why = await burial.of(part)
            report.partitions.append(Part(part, streams, events, did, why))
    return report


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    [(is_ours,)] = await fetch(connection, f"SELECT pg_try_advisory_lock({LOCK})")
    if not is_ours:
        raise CannotStart("another `foldstream gc` is at work on this database", fix="Wait for its end.")
    yield  # the lock goes with the connection


async def _rotate(connection: Connection, policy: Policy, report: Report, *, dry_run: bool, patience: float) -> None:
    """Let streams be born elsewhere, if it is time."""
    [(now,)] = await fetch(connection, NOW)
    [(_, born_at, used, events)] = await fetch(connection, BIRTH)
    due = now - born_at >= timedelta(days=policy.partition_days) or events > policy.partition_events
    if not (used and due):
        return
    if dry_run:
        report.rotated = 0
        return
    trouble = await _insist(connection, "SELECT add_events_partition()", seconds=min(LOCK_SECONDS, patience))
    if trouble:
        report.trouble = f"streams are still born into the old partition: {trouble}"
    else:
        [(report.rotated,)] = await fetch(connection, "SELECT birth_part FROM meta")


async def _insist(connection: Connection, sql: str, *, seconds: float = LOCK_SECONDS, attempts: int = ATTEMPTS) -> str:
    """Run a statement that needs a lock; "" when it was done, otherwise why not."""
    words = ""
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(0.2 * attempt)
        try:
            await connection.execute(f"SET lock_timeout = {int(seconds * 1000)}".encode())
            await connection.execute(sql.encode())
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            words = first_line(error)
        else:
            return ""
        finally:
            if not connection.closed:
                await connection.execute("SET lock_timeout = 0")
    return words


async def _seal(connection: Connection, limit: datetime, *, dry_run: bool) -> int:
    if dry_run:
        [(silent,)] = await fetch(connection, SILENT, {"limit": limit})
        return int(silent)
    [(last,)] = await fetch(connection, "SELECT coalesce(max(sid), 0) FROM streams")
    sealed = 0
    for after in range(0, last, RANGE):
        done = await connection.execute(SEAL.encode(), {"after": after, "until": after + RANGE, "limit": limit})
        sealed += done.rowcount
    return sealed


@dataclass(frozen=True, slots=True)
class _Burial:
    """Lets partitions go, from wherever an earlier run was stopped. Its answers: (what was done, why)."""

    connection: Connection
    dry_run: bool
    shelf: Shelf | None
    patience: float

    async def of(self, part: int) -> tuple[str, str]:
        """One whose streams are all sealed and silent."""
        [(exists, pending)] = await fetch(self.connection, ATTACHED, (part,))
        if pending is False:
            why = await self._why_it_stays(part)
            if why:
                return "kept", why
        elif exists and self.shelf is not None and not self.shelf.has(part):
            return "kept", "an earlier run has detached it without an export: run gc without --export to drop it"
        if self.dry_run:
            return "would be dropped", ""
        trouble = ""
        if pending is False:
            why = await _keep_states(self.connection, part)
            if why:
                return "kept", why
            if self.shelf is not None:
                try:
                    await self.shelf.put(part, _all_events(self.connection, part))
                except Invalid as error:
                    return "kept", error.detail
            await self.connection.execute(EMPTY.encode(), (part,))
            await self.connection.execute(FLOOR.encode(), (part,))
            trouble = await self._detach(part, "CONCURRENTLY")
        elif pending:
            trouble = await self._detach(part, "FINALIZE")
        if trouble:
            return "failed", f"somebody has been reading for {self.patience:g} seconds ({trouble}): run gc again"
        return await self._drop(part)

    async def _why_it_stays(self, part: int) -> str:
        unread = await fetch(self.connection, UNREAD, (part,))
        return (
            f"the follower {unread[0][0].decode()} has not read all of it (its row is in followers)" if unread else ""
        )

    async def _detach(self, part: int, how: str) -> str:
        sql = f"ALTER TABLE events DETACH PARTITION events_{part} {how}"
        return await _insist(self.connection, sql, seconds=self.patience, attempts=1)

    async def _drop(self, part: int) -> tuple[str, str]:
        """Its table, into which nobody can write any more.

        Only now it is certain that no stream was born into it by a transaction that began before the birth partition
        was changed: the detach has waited for all of those. If there is one, everything goes back.
        """
        await self.connection.execute(EMPTY.encode(), (part,))
        [(has_more,)] = await fetch(self.connection, HAS_MORE, (part,))
        if has_more:
            attach = f"ALTER TABLE events ATTACH PARTITION events_{part} FOR VALUES IN ({part})"
            trouble = await _insist(self.connection, attach)
            if trouble:
                return "failed", f"a stream was born into it, and it could not be attached again: {trouble}"
            await self.connection.execute(UNFLOOR.encode(), (part,))
            return "kept", "a stream was born into it"
        async with self.connection.transaction():
            await self.connection.execute(f"DROP TABLE IF EXISTS events_{part}".encode())
            await self.connection.execute(DROPPED.encode(), (part,))
        return "dropped", ""


async def _all_events(connection: Connection, part: int) -> AsyncIterator[Archived]:
    """Raises Invalid when there are fewer than there should be, or others than were written: no import takes those."""
    tail: Tail | None = None
    of: Place | None = None
    async for page in whole.places_of(connection, part):
        # The floor may have been set by a run that was stopped; the events are still there.
        complete = [replace(place, floor=0) for place in page]
        missing = sum(place.count for place in complete)
        async for place, events in whole.events(connection, complete):
            missing -= len(events)
            if tail is None or place is not of:
                tail, of = Tail(place.stream), place
            for archived in events:
                try:
                    tail.take(archived)
                except ValueError as error:
                    raise Invalid(f"{place.stream}: {error}; {LOOK}") from error
                yield archived
        if missing:
            raise Invalid(f"{missing} events are missing between {page[0].stream} and {page[-1].stream}; {LOOK}")


async def _keep_states(connection: Connection, part: int) -> str:
    """See to it that each stream's last state is stored; "" or why that cannot be."""
    async for page in whole.places_of(connection, part):
        try:
            async for rows in _states(connection, await _unfolded(connection, page)):
                await keep(connection, rows)
        except (ValueError, psycopg.DataError) as error:
            return f"a state between {page[0].stream} and {page[-1].stream} cannot be kept ({error}); {LOOK}"
        left = await _unfolded(connection, page)
        if left:
            return f"the state of {left[0].stream} cannot be kept; {LOOK}"
    return ""


async def _states(connection: Connection, places: Sequence[Place]) -> AsyncIterator[list[Projected]]:
    """Their last states, some at a time. Raises ValueError for one that cannot be folded or written."""
    rows: list[Projected] = []
    size = 0
    of: Place | None = None
    at: At[Any] | None = None
    async for place, events in whole.events(connection, places):
        category = BY_NAME[place.stream.category]
        of, at = place, at if place is of else None
        at = category.fold((current(category, archived.event) for archived in events), since=at)
        if at.version == place.version:
            rows.append(projected(category, place.stream, at, events[-1].event.at))
            size += len(rows[-1].snapshot.data)
        if size > CHUNK_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


async def _unfolded(connection: Connection, page: Sequence[Place]) -> list[Place]:
    """Those whose events are there and whose last state is not stored. (Of a kind that nobody knows there is none.)"""
    rows = await fetch(connection, FOLDED, ([place.sid for place in page],))
    folded = {sid: (version, fold) for sid, version, fold in rows}
    known = ((place, BY_NAME.get(place.stream.category)) for place in page if place.count)
    return [
        place for place, category in known if category and folded.get(place.sid) != (place.version, category.version)
    ]
