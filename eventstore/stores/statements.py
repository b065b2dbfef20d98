"""The SQL of the Postgres store, and the translation between its rows and our words. Pure: no connection, no clock.

`schema.sql` holds append_events(), the one statement that writes; what it promises is said there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from struct import Struct
from typing import Any, NamedTuple, overload

from eventstore.admit import Draft
from eventstore.errors import Conflict, FoldstreamError, KeyReused, Sealed
from eventstore.event import Event, Position, StreamId
from eventstore.stores.arrays import (
    bigints_of,
    integers,
    integers_if_any,
    integers_of,
    texts,
    texts_if_any,
    time,
    time_of,
    times_if_any,
)
from eventstore.stores.batch import Group

APPEND = """
SELECT outcome, version, head, at, tx::text::bigint, position, type, data, request_id, traceparent, schema
FROM append_events(%b::int[], %b::text[], %b::text[], %b::int[], %b::text[], %b::text[], %b::text[], %b::timestamptz[],
                   %b::text[], %b::text[], %b::int[])
ORDER BY ord
"""

# One row for all, with an array where streams or events differ.
APPEND_NEW = b"""
SELECT heads, txs, positions, now
FROM append_new($1::text[], $2::text[], $3::int[], $4::int[],
                $5::int[], $6::int[], $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::text[], $12::text[],
                $13::int[], $14::bool)
"""
# The same for one event of a stream that exists: no arrays on either side. Not in FROM, where its row would be put into
# a table first; so the row comes as one value.
APPEND_ONE = b"""
SELECT append_one($1::text, $2::text, $3::int, $4::text, $5::text, $6::text, $7::timestamptz, $8::text, $9::text,
                  $10::smallint)
"""
IN_THE_WAY = frozenset({"23505", "FS001"})
"""The errors by which append_new and append_one say that append_events must do it."""

# LATERAL here and below: one look-up after the other, never a join over whole tables, whatever the planner believes of
# their size at the moment in which it makes a session's plan. (Reading one stream: see `pages`.)

# Behind the cursor and below every open transaction. `e.tx` and no alias: ORDER BY would take the alias, which is text.
READ_ALL = """
SELECT s.category, s.id, e.version, e.tx::text::bigint, e.position, e.type, e.data, e.at, e.request_id,
       e.traceparent, e.schema
FROM (
    SELECT * FROM events
    WHERE (tx, position) > (%s::text::xid8, %s::bigint) AND tx < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY tx, position LIMIT %s
) e CROSS JOIN LATERAL (SELECT category, id FROM streams s WHERE s.sid = e.sid OFFSET 0) s
ORDER BY e.tx, e.position
"""

HEADS = """
SELECT u.ord, s.version
FROM unnest(%b::text[], %b::text[]) WITH ORDINALITY u (category, id, ord)
CROSS JOIN LATERAL (
    SELECT version FROM streams s WHERE s.category = u.category AND s.id = u.id AND s.version > 0 OFFSET 0
) s
"""

RECENT = """
SELECT id, version, created_at FROM streams
WHERE category = %(category)s AND version > 0
  AND (%(before)s::text IS NULL OR (created_at, sid) < (
      (SELECT created_at FROM streams WHERE category = %(category)s AND id = %(before)s),
      (SELECT sid FROM streams WHERE category = %(category)s AND id = %(before)s)))
ORDER BY created_at DESC, sid DESC LIMIT %(limit)s
"""

SEAL = "SELECT seal_stream(%b, %b)"

IS_READY = "SELECT to_regclass('streams') IS NOT NULL"

EPOCH = "SELECT epoch::text FROM meta"

# Of a log that was restored from a dump into a younger cluster, the transactions lie in the future of that cluster.
FROM_ANOTHER_CLUSTER = """
SELECT coalesce((SELECT e.tx FROM events e ORDER BY e.tx DESC, e.position DESC LIMIT 1)
                >= pg_snapshot_xmax(pg_current_snapshot()), false)
"""


_INT = Struct(">i").pack
_SMALLINT = Struct(">h").pack
_ONE = Struct(">12xi8xq8xq8x8s").unpack  # a row: how many columns, then each behind its type and length


class Row(NamedTuple):
    """One row of APPEND: what became of one event."""

    outcome: bytes
    version: int | None
    head: int
    at: datetime | None
    tx: int | None
    position: int | None
    type: bytes | None
    data: bytes | None
    request_id: bytes | None
    traceparent: bytes | None
    schema: int | None


def append_arguments(groups: Sequence[Group]) -> tuple[list[Any], ...]:
    """The arrays of APPEND: one element an event."""
    drafts = [draft for group in groups for draft in group.drafts]
    each = [(number, group) for number, group in enumerate(groups) for _ in group.drafts]
    return (
        [number for number, _ in each],
        [group.stream.category for _, group in each],
        [group.stream.id for _, group in each],
        [_version(group.expected) for _, group in each],
        [draft.type for draft in drafts],
        [draft.json.decode() for draft in drafts],
        [draft.key for draft in drafts],
        [draft.at for draft in drafts],
        [draft.request_id for draft in drafts],
        [draft.traceparent for draft in drafts],
        [draft.schema for draft in drafts],
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Where the events of a batch belong.

    streams  in the order in which they are locked. counts: the events of each.
    of       for each event the place of its stream among the streams (1 ...). offsets: its place there (1 ...).
    order    the numbers of the events (0 ...) in the order of their streams, and of their offsets in each.
    """

    streams: list[StreamId]
    counts: list[int]
    of: list[int]
    offsets: list[int]
    order: list[int]


def places(groups: Sequence[Group]) -> Places:
    """The places of all events of ``groups``."""
    streams = sorted({group.stream for group in groups})
    number = {stream: n for n, stream in enumerate(streams, 1)}
    counts = [0] * len(streams)
    of: list[int] = []
    offsets: list[int] = []
    for group in groups:
        place = number[group.stream]
        before = counts[place - 1]
        counts[place - 1] = after = before + len(group.drafts)
        of += [place] * len(group.drafts)
        offsets += range(before + 1, after + 1)
    return Places(streams, counts, of, offsets, sorted(range(len(of)), key=of.__getitem__))


@overload
def _version(expected: int) -> int: ...
@overload
def _version(expected: None) -> None: ...
def _version(expected: int | None) -> int | None:
    """What the database compares with: no stream comes as far as its integers do, so all beyond is one conflict."""
    return None if expected is None else max(-1, min(expected, 2**31 - 1))


def append_new_arguments(groups: Sequence[Group], at: Places, *, unsure: bool) -> tuple[bytes | None, ...]:
    """The parameters of APPEND_NEW, in binary. unsure: some of the streams may not exist yet."""
    given = [draft for group in groups for draft in group.drafts]
    order = at.order
    drafts = [given[number] for number in order]
    expected = {group.stream: _version(group.expected) for group in groups if group.expected is not None}
    schemas = [draft.schema for draft in drafts]
    return (
        texts([stream.category.encode() for stream in at.streams]),
        texts([stream.id.encode() for stream in at.streams]),
        integers_if_any([expected.get(stream) for stream in at.streams]) if expected else None,
        integers(at.counts),
        integers([at.of[number] for number in order]),
        integers([at.offsets[number] for number in order]),
        texts([draft.type.encode() for draft in drafts]),
        texts([draft.json for draft in drafts]),
        texts_if_any([draft.key for draft in drafts]),
        times_if_any([draft.at for draft in drafts]),
        texts_if_any([draft.request_id for draft in drafts]),
        texts_if_any([draft.traceparent for draft in drafts]),
        integers(schemas) if any(schema != 1 for schema in schemas) else None,
        b"\1" if unsure else b"\0",
    )


def append_one_arguments(group: Group) -> tuple[bytes | None, ...]:
    """The parameters of APPEND_ONE for the one event of ``group``, in binary."""
    [draft] = group.drafts
    key, at, request_id, traceparent = draft.key, draft.at, draft.request_id, draft.traceparent
    return (
        group.stream.category.encode(),
        group.stream.id.encode(),
        None if group.expected is None else _INT(_version(group.expected)),
        draft.type.encode(),
        draft.json,
        None if key is None else key.encode(),
        None if at is None else time(at),
        None if request_id is None else request_id.encode(),
        None if traceparent is None else traceparent.encode(),
        _SMALLINT(draft.schema),
    )


def one_recorded(group: Group, row: Sequence[bytes]) -> Recorded:
    """What became of the append of APPEND_ONE, from its row, in binary."""
    [draft] = group.drafts
    version, tx, position, now = _ONE(row[0])
    event = _recorded(group.stream, draft, version, Position(tx, position), time_of(now))
    return Recorded([event], [event])


def all_recorded(groups: Sequence[Group], at: Places, row: Sequence[bytes]) -> list[Recorded]:
    """What became of the appends of APPEND_NEW, from its row, in binary."""
    heads, txs = integers_of(row[0]), bigints_of(row[1])
    now = time_of(row[3])
    position_of = dict(zip(at.order, bigints_of(row[2]), strict=True))
    numbers = zip(range(len(at.of)), at.of, at.offsets, strict=True)
    found = []
    for group in groups:
        stream = group.stream
        events = [
            _recorded(stream, draft, heads[place - 1] + offset, Position(txs[place - 1], position_of[number]), now)
            for draft, (number, place, offset) in zip(
                group.drafts, numbers, strict=False
            )  # takes no more than it needs
        ]
        found.append(Recorded(events, events))
    return found


def _recorded(stream: StreamId, draft: Draft, version: int, position: Position, now: datetime) -> Event:
    """A draft that has its place in the log."""
    return Event(
        stream,
        version,
        position,
        draft.type,
        draft.json,
        draft.at or now,
        draft.request_id,
        draft.traceparent,
        draft.schema,
    )


class Recorded(NamedTuple):
    """What became of an append that was not refused. fresh: those of its events that were recorded just now."""

    events: list[Event]
    fresh: list[Event]


def outcomes(groups: Sequence[Group], rows: Sequence[Row]) -> list[Recorded | FoldstreamError]:
    """What became of each append, from the rows of all its events."""
    found: list[Recorded | FoldstreamError] = []
    start = 0
    for group in groups:
        stop = start + len(group.drafts)
        found.append(_outcome(group, rows[start:stop]))
        start = stop
    return found


def _outcome(group: Group, rows: Sequence[Row]) -> Recorded | FoldstreamError:
    events, fresh = [], []
    for draft, row in zip(group.drafts, rows, strict=True):
        if row.outcome == b"appended":
            event = _event(group.stream, draft, row)
            fresh.append(event)
        elif row.outcome == b"duplicate":
            event = _first_recording(group.stream, row)
        elif row.outcome == b"refused":  # another event of this append says why
            continue
        else:
            return _refusal(group, draft, row)
        events.append(event)
    return Recorded(events, fresh)


def _refusal(group: Group, draft: Draft, row: Row) -> FoldstreamError:
    if row.outcome == b"conflict":
        assert group.expected is not None
        return Conflict(group.stream, group.expected, row.head)
    if row.outcome == b"reused":
        return KeyReused(f"the key {draft.key!r} of {group.stream} was used before for another event")
    return Sealed(f"{group.stream} is sealed at version {row.head}: nothing more is recorded in it")


def _event(stream: StreamId, draft: Draft, row: Row) -> Event:
    assert row.version is not None
    assert row.at is not None
    return _recorded(stream, draft, row.version, _position(row), utc(row.at))


def _first_recording(stream: StreamId, row: Row) -> Event:
    assert row.version is not None
    assert row.at is not None
    assert row.type is not None
    assert row.data is not None
    position = _position(row)
    facts = (row.version, position.transaction, position.number, row.type, row.data, row.at)
    return event_of(stream, (*facts, row.request_id, row.traceparent, row.schema))


def _position(row: Row) -> Position:
    assert row.tx is not None
    assert row.position is not None
    return Position(row.tx, row.position)


def utc(at: datetime) -> datetime:
    """The connection's time zone is UTC already; this gives the times Python's own object for it."""
    return at if at.tzinfo is UTC else at.replace(tzinfo=UTC)


def event_of(stream: StreamId, row: Sequence[Any]) -> Event:
    """A row of `pages.read`; text as bytes, times in UTC."""
    version, tx, position, type_, data, at, request_id, traceparent, schema = row
    return Event(
        stream,
        version,
        Position(tx, position),
        type_.decode(),
        data,
        utc(at),
        None if request_id is None else request_id.decode(),
        None if traceparent is None else traceparent.decode(),
        schema,
    )
