"""bulk: many events into the log at once, with their old times and hashes: COPY, checked on the way.

One load is one transaction: all of it or nothing. Its streams are new; their events may be mixed in any way, but each
stream comes from its version 1 on without a hole, and fits its hashes where it brings any. A stream that the log has
already is left as it is when the log holds every one of the events that come (so the same file can be loaded again);
otherwise all is refused.

Why two connections: while one is in the middle of COPY, the other asks which of the next streams exist, and takes
numbers for those that do not. The rows of the streams come last, with their final versions, so nobody who appends
waits for us; whoever makes a stream of the same name meanwhile wins, and the load is refused.

To followers all of it happens at once: at its commit. Until then they hold back what is younger (see `read_all`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from struct import Struct
from typing import NamedTuple

import psycopg
from psycopg import AsyncCopy

from eventstore.archive import Archived, Tail
from eventstore.errors import FoldstreamError, Invalid
from eventstore.event import Event, StreamId
from eventstore.stores.connections import Connection, fetch, first_line, translate
from eventstore.stores.whole import connected

BATCH = 5000
"""Events whose streams are looked up together."""
BATCH_BYTES = 8_000_000
"""Of data, after which a batch ends."""

COPY_EVENTS = """
COPY events (sid, at, version, part, schema, type, key, request_id, traceparent, hash, data) FROM STDIN (FORMAT BINARY)
"""
COPY_STREAMS = """
COPY streams (sid, tx, created_at, updated_at, sealed_at, version, part, category, id) FROM STDIN (FORMAT BINARY)
"""

# A number is taken for each name, also for those that exist: numbers are cheap.
LOOK_UP = """
SELECT u.ord, s.sid, s.part, nextval('streams_sid_seq')
FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY u (category, id, ord)
LEFT JOIN LATERAL (
    SELECT sid, part FROM streams s WHERE s.category = u.category AND s.id = u.id AND s.version > 0 OFFSET 0
) s ON true
"""
HASH_AT = "SELECT hash FROM events WHERE part = %s AND sid = %s AND version = %s"
NOW = "SELECT birth_part, clock_timestamp() FROM meta"
OUR_TX = "SELECT pg_current_xact_id()::text::bigint"

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EVENT = Struct(">hiqiqiiiiih").pack  # 11 fields; sid, at, version, part, schema: each behind its length
_STREAM = Struct(">hiqiqiqiq").pack  # 9 fields; sid, tx, created_at, updated_at
_TIME = Struct(">iq").pack
_NUMBERS = Struct(">iiii").pack
_LENGTH = Struct(">i").pack
_NULL = _LENGTH(-1)


class Loaded(NamedTuple):
    """What a load did. skipped: streams that the log had already, with every event that came."""

    streams: int
    events: int
    skipped: int


@dataclass(slots=True)
class _Coming:
    """A stream that is being loaded. part: where its events are, if it was there before, else 0."""

    sid: int
    part: int
    tail: Tail
    first_at: datetime
    last_at: datetime
    number: int = 0


def _nobody(events: int) -> None:
    """Nobody is told how far it is."""


async def load(
    dsn: str, events: Iterable[Archived], *, seal: bool = False, told: Callable[[int], None] = _nobody
) -> Loaded:
    """Put ``events`` into the log at ``dsn``, whose tables' owner the user must be.

    seal   close the new streams at once.
    told   is called now and then with the number of events so far.
    Raises Invalid naming the event by its number (1 ...: in a file, the line) and its stream, and whatever ``events``
    raises; CannotStart, Unavailable. Then nothing is in the log.
    """
    async with connected(dsn, owner=True) as connection, connected(dsn) as asking:
        try:
            async with connection.transaction():
                return await _load(connection, asking, events, seal=seal, told=told)
        except psycopg.errors.UniqueViolation as error:
            raise Invalid(
                f"a stream or a key came up twice: {error.diag.message_detail or first_line(error)}",
                fix="If somebody else made that stream meanwhile, import again.",
            ) from error
        except psycopg.Error as error:
            raise _told(error) from error


async def _load(
    connection: Connection, asking: Connection, events: Iterable[Archived], *, seal: bool, told: Callable[[int], None]
) -> Loaded:
    [(part, now)] = await fetch(connection, NOW)
    coming: dict[StreamId, _Coming] = {}
    number = copied = 0
    rest = iter(events)
    async with _copying(connection, COPY_EVENTS) as copy:
        # While Postgres takes one batch, the next one is read, checked and encoded, in another thread: on two cores
        # that is nearly twice as fast.
        writing = asyncio.create_task(copy.write(b""))
        try:
            while batch := await asyncio.to_thread(_batch, rest):
                # In the order in which they come: their numbers are the order of lists.
                names = dict.fromkeys(archived.event.stream for archived in batch)
                await _look_up(asking, coming, [name for name in names if name not in coming])
                rows = await asyncio.to_thread(_rows, batch, coming, number, part)
                await writing
                writing = asyncio.create_task(copy.write(b"".join(rows)))
                number, copied = number + len(batch), copied + len(rows)
                told(number)
        finally:
            await writing
    new = {name: stream for name, stream in coming.items() if not stream.part}
    for name, stream in coming.items():
        if stream.part:
            await _must_be_the_same(connection, name, stream)
    [(tx,)] = await fetch(connection, OUR_TX)
    async with _copying(connection, COPY_STREAMS) as copy:
        for some in _some(new.items()):
            await copy.write(b"".join(_stream_row(*one, tx, part, now, seal=seal) for one in some))
    return Loaded(len(new), copied, len(coming) - len(new))


def _batch(rest: Iterator[Archived]) -> list[Archived]:
    batch: list[Archived] = []
    size = 0
    for archived in islice(rest, BATCH):
        batch.append(archived)
        size += len(archived.event.json)
        if size >= BATCH_BYTES:
            break
    return batch


@asynccontextmanager
async def _copying(connection: Connection, sql: str) -> AsyncIterator[AsyncCopy]:
    async with connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
        await copy.write(_SIGNATURE)
        yield copy
        await copy.write(_END)


async def _look_up(asking: Connection, coming: dict[StreamId, _Coming], names: Sequence[StreamId]) -> None:
    if not names:
        return
    rows = await fetch(asking, LOOK_UP, ([name.category for name in names], [name.id for name in names]))
    for place, sid, part, number in rows:
        name = names[place - 1]
        coming[name] = _Coming(sid or number, part or 0, Tail(name), _EPOCH, _EPOCH)


def _rows(batch: Sequence[Archived], coming: Mapping[StreamId, _Coming], before: int, part: int) -> list[bytes]:
    """The rows of COPY_EVENTS for events of new streams; all are checked. before: the number of events so far."""
    rows = []
    for number, archived in enumerate(batch, before + 1):
        stream = coming[archived.event.stream]
        _follow(stream, archived, number)
        if not stream.part:
            rows.append(_row(archived, stream, part))
    return rows


def _follow(stream: _Coming, archived: Archived, number: int) -> None:
    try:
        stream.tail.take(archived)
    except ValueError as error:
        raise Invalid(
            f"event {number} does not fit its stream {archived.event.stream}: {error}",
            fix="Nothing was imported. Take the file as it was exported, or another copy of it.",
        ) from error
    stream.number = number
    stream.last_at = archived.event.at
    if archived.event.version == 1:
        stream.first_at = archived.event.at


async def _must_be_the_same(connection: Connection, name: StreamId, stream: _Coming) -> None:
    rows = await fetch(connection, HASH_AT, (stream.part, stream.sid, stream.tail.version))
    if not rows or rows[0][0] != stream.tail.hash:
        raise Invalid(
            f"{name} exists already, and the log does not hold the {stream.tail.version} events that end at event "
            f"{stream.number}",
            fix="Nothing was imported. Import it into another database, or leave this stream out.",
        )


def _row(archived: Archived, stream: _Coming, part: int) -> bytes:
    """A row of COPY_EVENTS in the binary format: each value behind its length."""
    event, key, _ = archived
    type_, hash_, data = event.type.encode(), stream.tail.hash, event.json
    return b"".join(
        (
            _EVENT(11, 8, stream.sid, 8, _micros(event.at), 4, event.version, 4, part, 2, _smallint(event)),
            _LENGTH(len(type_)),
            type_,
            _text(key),
            _text(event.request_id),
            _text(event.traceparent),
            _LENGTH(len(hash_)),
            hash_,
            _LENGTH(len(data)),
            data,
        )
    )


def _stream_row(name: StreamId, stream: _Coming, tx: int, part: int, now: datetime, *, seal: bool) -> bytes:
    """A row of COPY_STREAMS. Born with its first event and last appended to with its last one, as far as that is past:
    lists and retention go on from the times in which things happened."""
    born, last = (_micros(min(at, now)) for at in (stream.first_at, stream.last_at))
    return b"".join(
        (
            _STREAM(9, 8, stream.sid, 8, tx, 8, born, 8, max(born, last)),
            _TIME(8, _micros(now)) if seal else _NULL,
            _NUMBERS(4, stream.tail.version, 4, part),
            _text(name.category),
            _text(name.id),
        )
    )


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _smallint(event: Event) -> int:
    if not 0 < event.schema < 2**15:
        raise Invalid(f"{event.stream} version {event.version} has the schema number {event.schema}")
    return event.schema


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


def _some(items: Iterable[tuple[StreamId, _Coming]]) -> Iterator[Sequence[tuple[StreamId, _Coming]]]:
    rest = iter(items)
    while some := list(islice(rest, BATCH)):
        yield some


def _told(error: psycopg.Error) -> FoldstreamError:
    found = translate(error, "; nothing was imported")
    where = (error.diag.context or "").partition(":")[0]
    return Invalid(f"{found.detail} ({where})") if where and isinstance(found, Invalid) else found
