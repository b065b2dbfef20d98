"""whole: streams from their first event to their last, for whoever copies, checks or buries them.

Flat in memory: a stream is read in pages of some thousand events and some megabytes, small streams many in one page. In
order of their names, which is the same order in every copy of a log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.archive import Archived
from eventstore.errors import CannotStart, Invalid, Unavailable
from eventstore.event import StreamId
from eventstore.stores.connections import Connection, fetch, first_line, translate
from eventstore.stores.statements import EPOCH, IS_READY, event_of, utc

PAGE_STREAMS = 1000
PAGE_EVENTS = 5000
PAGE_BYTES = 8_000_000
"""Of data, after which a page ends."""

# Look-ups by index, as in the store (see connections.py); whoever reads everything must not wait for a JIT either.
SETTINGS = """
SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false), set_config('TimeZone', 'UTC', false)
"""

IS_OWNER = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'events'::regclass"

_PLACE = """
SELECT sid, part, floor, version, tx::text::bigint, created_at, updated_at, sealed_at IS NOT NULL, category, id
FROM streams
"""
PLACES = f"""
{_PLACE}
WHERE (category, id) > (%(category)s, %(id)s) AND (%(only)s::text IS NULL OR category = %(only)s) AND version > 0
ORDER BY category, id LIMIT %(limit)s
"""
AGAIN = f"{_PLACE} WHERE sid = ANY (%s) AND version > 0 ORDER BY category, id"
NAMED = f"{_PLACE} WHERE category = %s AND id = %s AND version > 0"
NEWEST = "SELECT id FROM streams WHERE category = %s AND version > 0 ORDER BY sid DESC LIMIT 1"
OF_PART = f"{_PLACE} WHERE part = %s AND version > 0 AND sid > %s ORDER BY sid LIMIT %s"

_COLUMNS = """
e.version, e.tx::text::bigint, e.position, e.type, e.data, e.at, e.request_id, e.traceparent, e.schema, e.key, e.hash
"""
# An event belongs to a page if what stands before it is small enough (its length is known without reading it).
_BEFORE = "sum(octet_length(e.data)) OVER (ORDER BY {} ROWS UNBOUNDED PRECEDING) - octet_length(e.data) AS before"
ONE = f"""
SELECT {_COLUMNS} FROM (
    SELECT *, {_BEFORE.format("e.version")} FROM (
        SELECT * FROM events e WHERE e.part = %s AND e.sid = %s AND e.version > %s ORDER BY e.version LIMIT %s
    ) e
) e WHERE e.before < {PAGE_BYTES} ORDER BY e.version
"""  # noqa: S608
# One more than the stream should have: that it has more is seen, however many more.
MANY = f"""
SELECT {_COLUMNS}, e.ord FROM (
    SELECT e.*, u.ord, {_BEFORE.format("u.ord, e.version")}
    FROM unnest(%s::int[], %s::bigint[], %s::int[]) WITH ORDINALITY u (part, sid, count, ord)
    CROSS JOIN LATERAL (
        SELECT * FROM events e WHERE e.part = u.part AND e.sid = u.sid ORDER BY e.version LIMIT u.count + 1
    ) e
) e WHERE e.before < {PAGE_BYTES} ORDER BY e.ord, e.version
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Place:
    """A row of streams: where its events are, and what it says of them."""

    sid: int
    part: int
    floor: int
    version: int
    tx: int
    created_at: datetime
    updated_at: datetime
    sealed: bool
    stream: StreamId

    @property
    def count(self) -> int:
        """How many events of it are in the log."""
        return self.version - self.floor


@asynccontextmanager
async def connected(dsn: str, *, owner: bool = False, name: str = "foldstream") -> AsyncIterator[Connection]:
    """A connection of one's own, in autocommit. Raises Unavailable, now or later; CannotStart: no log, or
    not the tables' owner."""
    try:
        connection: Connection = await AsyncConnection.connect(dsn, autocommit=True, application_name=name)
    except psycopg.OperationalError as error:
        raise Unavailable(f"Postgres cannot be reached: {first_line(error)}") from error
    async with connection:
        try:
            await connection.execute(SETTINGS)
            if not (await fetch(connection, IS_READY))[0][0]:
                raise CannotStart("the database has no log in it", fix="Run `foldstream migrate`.")
            if owner and not (await fetch(connection, IS_OWNER))[0][0]:
                raise CannotStart(
                    f"{connection.info.user} is not the owner of the log's tables, and only the owner may do this",
                    fix="Set DATABASE_URL to the user that `foldstream migrate` runs as.",
                )
            yield connection
        except psycopg.Error as error:
            raise translate(error) from error


async def epoch(connection: Connection) -> str:
    """The life of this log (see `Index.epoch`)."""
    return str((await fetch(connection, EPOCH))[0][0].decode())


async def places(connection: Connection, category: str | None = None) -> AsyncIterator[list[Place]]:
    """Every stream that has or had events, in order of names, in pages."""
    after = {"category": "", "id": "", "only": category, "limit": PAGE_STREAMS}
    while page := [_place(row) for row in await fetch(connection, PLACES, after)]:
        yield page
        last = page[-1].stream
        after |= {"category": last.category, "id": last.id}


async def place_of(connection: Connection, stream: StreamId) -> Place | None:
    """One stream; None: there is none of this name."""
    rows = await fetch(connection, NAMED, (stream.category, stream.id))
    return _place(rows[0]) if rows else None


async def newest(connection: Connection, category: str) -> StreamId | None:
    """The stream of a category that was born last."""
    rows = await fetch(connection, NEWEST, (category,))
    return StreamId(category, rows[0][0].decode()) if rows else None


async def places_again(connection: Connection, page: Sequence[Place]) -> list[Place]:
    """The same streams as of now, in order of names."""
    return [_place(row) for row in await fetch(connection, AGAIN, ([place.sid for place in page],))]


async def places_of(connection: Connection, part: int) -> AsyncIterator[list[Place]]:
    """Every stream that was born into a partition, in order of birth, in pages."""
    after = 0
    while page := [_place(row) for row in await fetch(connection, OF_PART, (part, after, PAGE_STREAMS))]:
        yield page
        after = page[-1].sid


def _place(row: Sequence[Any]) -> Place:
    sid, part, floor, version, tx, created_at, updated_at, sealed, category, id_ = row
    stream = StreamId(category.decode(), id_.decode())
    return Place(sid, part, floor, version, tx, utc(created_at), utc(updated_at), sealed, stream)


async def events(connection: Connection, found: Sequence[Place]) -> AsyncIterator[tuple[Place, list[Archived]]]:
    """The events of these streams that are in the log, stream after stream, each in one page or more.

    A stream without an event gives one empty page. A page may reach beyond `Place.version` by what was appended since
    (in a snapshot: by what the stream's row does not know of). Raises Invalid for an event that cannot be read.
    """
    for batch in _batches(found):
        left = batch
        while len(left) > 1:
            asked = ([p.part for p in left], [p.sid for p in left], [p.count for p in left])
            pages: list[list[Archived]] = [[] for _ in left]
            size = last = 0
            for row in await _fetch(connection, MANY, asked, left):
                last = row[-1] - 1
                pages[last].append(_archived(left[last], row))
                size += len(pages[last][-1].event.json)
            complete = last if size >= PAGE_BYTES else len(left)
            for place, page in zip(left[:complete], pages, strict=False):
                yield place, page
            for place in left[complete : complete + 1]:  # in the middle of it the page was full
                yield place, pages[complete]
                async for page in _of_one(connection, place, pages[complete][-1].event.version):
                    yield place, page
            left = left[complete + 1 :]
        for place in left:
            async for page in _of_one(connection, place):
                yield place, page


async def _of_one(connection: Connection, place: Place, after: int = 0) -> AsyncIterator[list[Archived]]:
    """Its events behind this version. One empty page, if that is 0 and there are none."""
    while True:
        rows = await _fetch(connection, ONE, (place.part, place.sid, after, PAGE_EVENTS), [place], after)
        page = [_archived(place, row) for row in rows]
        if page or not after:
            yield page
        if len(page) < PAGE_EVENTS and sum(len(archived.event.json) for archived in page) < PAGE_BYTES:
            return
        after = page[-1].event.version


async def _fetch(
    connection: Connection, sql: str, params: object, found: Sequence[Place], after: int = 0
) -> list[tuple[Any, ...]]:
    try:
        return await fetch(connection, sql, params)
    except psycopg.DataError as error:  # a time outside of Python's years: SQL may have stored it
        where = f"{found[0].stream}" + (f" after version {after}" if after else "")
        where += f" to {found[-1].stream}" if len(found) > 1 else ""
        raise Invalid(f"an event of {where} cannot be read: {first_line(error)}") from error


def _archived(place: Place, row: Sequence[Any]) -> Archived:
    key, hash_ = row[9], row[10]
    return Archived(event_of(place.stream, row[:9]), key.decode() if key is not None else None, hash_)


def _batches(found: Sequence[Place]) -> Iterator[list[Place]]:
    """In order; together at most a page of events, or a single stream."""
    batch: list[Place] = []
    room = PAGE_EVENTS
    for place in found:
        if batch and place.count > room:
            yield batch
            batch, room = [], PAGE_EVENTS
        batch.append(place)
        room -= place.count
    if batch:
        yield batch
