"""PostgresSnapshots: snapshots in the table ``states``, for their readers and for their writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg

from eventstore.event import StreamId
from eventstore.snapshots import LAST, NEAR, Line, Outdated, Projected, Query, Reading, Snapshot, Stored
from eventstore.store import PAGE
from eventstore.stores import statements
from eventstore.stores.connections import Connection, Connections, fetch, translate

# One statement, so snapshot, events and head are of one moment. The state stands beside the first event only.
LATEST = """
SELECT s.version, s.floor, p.version, p.fold,
       CASE WHEN e.version IS NULL OR e.version = p.version + 1 THEN p.state::text END,
       e.version, e.tx::text::bigint, e.position, e.type, e.data, e.at, e.request_id, e.traceparent, e.schema
FROM streams s
LEFT JOIN LATERAL (
    SELECT version, fold, state FROM states p
    WHERE p.sid = s.sid AND (p.fold = %(fold)s OR s.floor > 0)
      AND p.version > %(beyond)s::int AND p.version <= %(until)s::int OFFSET 0
) p ON true
LEFT JOIN LATERAL (
    SELECT * FROM events e
    WHERE e.part = s.part AND e.sid = s.sid
      AND e.version > coalesce(p.version, %(after)s::int) AND e.version <= %(until)s::int
    ORDER BY e.version LIMIT %(limit)s
) e ON true
WHERE s.category = %(category)s AND s.id = %(id)s
ORDER BY e.version
"""

# `category = ...` would be as true, and would let the planner go through the streams of all categories, newest first,
# in search of one that is rare. This order only the index streams_newest has.
NEWEST = """
SELECT s.id, s.version, p.version, p.fold, p.state::text
FROM (
    SELECT sid, id, version, created_at FROM streams
    WHERE category >= %(category)s AND category <= %(category)s AND version > 0 {before}
    ORDER BY category, created_at DESC, sid DESC LIMIT %(limit)s
) s
LEFT JOIN LATERAL (SELECT version, fold, state FROM states p WHERE p.sid = s.sid OFFSET 0) p ON true
ORDER BY s.created_at DESC, s.sid DESC
"""
NEWEST_BEFORE = """AND (created_at, sid) < (
        (SELECT created_at FROM streams WHERE category = %(category)s AND id = %(before)s),
        (SELECT sid FROM streams WHERE category = %(category)s AND id = %(before)s))"""

# Which conditions there are makes another statement, so that each gets the plan of its index.
FILTERED = """
SELECT s.id, s.version, p.version, p.fold, p.state::text
FROM (
    SELECT * FROM states WHERE category = %(category)s {conditions} ORDER BY born_at DESC, sid DESC LIMIT %(limit)s
) p
CROSS JOIN LATERAL (SELECT id, version FROM streams s WHERE s.sid = p.sid OFFSET 0) s
ORDER BY p.born_at DESC, p.sid DESC
"""
CONDITIONS = {
    "status": "AND status = %(status)s",
    "project": "AND project = %(project)s",
    "since": "AND born_at >= %(since)s",
    "until": "AND born_at < %(until)s",
    "before": """AND (born_at, sid) < (
        (SELECT created_at FROM streams WHERE category = %(category)s AND id = %(before)s),
        (SELECT sid FROM streams WHERE category = %(category)s AND id = %(before)s))""",
}

STORED = """
SELECT u.ord, s.floor, p.version, p.fold, p.state::text
FROM unnest(%b::text[], %b::text[]) WITH ORDINALITY u (category, id, ord)
CROSS JOIN LATERAL (SELECT sid, floor FROM streams s WHERE s.category = u.category AND s.id = u.id OFFSET 0) s
CROSS JOIN LATERAL (SELECT version, fold, state FROM states p WHERE p.sid = s.sid OFFSET 0) p
"""

WRITE = """
INSERT INTO states (sid, born_at, updated_at, version, fold, category, id, status, project, state)
SELECT s.sid, s.created_at, u.updated_at, u.version, u.fold, u.category, u.id, u.status, u.project, u.state::jsonb
FROM unnest(%b::text[], %b::text[], %b::int[], %b::int[], %b::text[], %b::text[], %b::text[], %b::timestamptz[])
     u (category, id, version, fold, status, project, state, updated_at)
CROSS JOIN LATERAL (SELECT sid, created_at FROM streams s WHERE s.category = u.category AND s.id = u.id OFFSET 0) s
ORDER BY s.sid
ON CONFLICT (sid) DO UPDATE
SET updated_at = excluded.updated_at, version = excluded.version, fold = excluded.fold, status = excluded.status,
    project = excluded.project, state = excluded.state
WHERE states.fold < excluded.fold OR states.version < excluded.version
RETURNING true
"""

FORGET = "DELETE FROM states WHERE sid = %s AND version = %s AND fold = %s RETURNING true"

OUTDATED = """
SELECT p.fold, p.sid, CASE WHEN s.floor = 0 THEN s.id END
FROM (
    SELECT fold, sid FROM states
    WHERE category = %(category)s AND fold < %(fold)s::int AND (fold, sid) > (%(last_fold)s::int, %(last_sid)s::bigint)
    ORDER BY fold, sid LIMIT %(limit)s
) p
CROSS JOIN LATERAL (SELECT id, floor FROM streams s WHERE s.sid = p.sid OFFSET 0) s
ORDER BY p.fold, p.sid
"""


class PostgresSnapshots:
    """`Snapshots` and `Projection` over ``connections``."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def latest(
        self, stream: StreamId, fold: int, after: int = 0, until: int = LAST, limit: int = PAGE
    ) -> Reading:
        """See `Snapshots.latest`."""
        asked: dict[str, Any] = {"category": stream.category, "id": stream.id, "fold": fold, "limit": limit}
        asked |= {"after": after, "beyond": min(after + NEAR, LAST) if after else 0, "until": until}
        rows = await self._connections.fetch(LATEST, asked)
        if not rows:
            return Reading(None, [], 0, 0)
        head, floor, version, fold_, data = rows[0][:5]
        events = [statements.event_of(stream, row[5:]) for row in rows if row[5] is not None]
        return Reading(_snapshot(version, fold_, data), events, floor, head)

    async def page(self, query: Query) -> list[Line]:
        """See `Snapshots.page`."""
        asked = {name: getattr(query, name) for name in ("category", "status", "project", "since", "until", "limit")}
        asked["before"] = query.before.id if query.before is not None else None
        if query.is_filtered:
            given = (sql for name, sql in CONDITIONS.items() if asked[name] is not None)
            sql = FILTERED.format(conditions=" ".join(given))
        else:
            sql = NEWEST.format(before=NEWEST_BEFORE if query.before else "")
        rows = await self._connections.fetch(sql, asked)
        return [Line(StreamId(query.category, row[0].decode()), row[1], _snapshot(*row[2:])) for row in rows]

    async def stored(self, streams: Iterable[StreamId]) -> Mapping[StreamId, Stored]:
        """See `Projection.stored`."""
        asked = list(streams)
        rows = await self._connections.fetch(STORED, _names(asked)) if asked else []
        found = {}
        for number, floor, version, fold, data in rows:
            found[asked[number - 1]] = Stored(Snapshot(version, fold, data), floor)
        return found

    async def write(self, rows: Sequence[Projected], joined: Connection) -> None:
        """See `Projection.write`. joined: the connection of the transaction."""
        try:
            await keep(joined, rows)
        except psycopg.Error as error:
            raise translate(error) from error

    async def outdated(self, category: str, fold: int, after: tuple[int, int], limit: int) -> Outdated:
        """See `Projection.outdated`."""
        asked = {"category": category, "fold": fold, "last_fold": after[0], "last_sid": after[1], "limit": limit}
        rows = await self._connections.fetch(OUTDATED, asked)
        streams = [StreamId(category, id_.decode()) for _, _, id_ in rows if id_ is not None]
        return Outdated(streams, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None)


async def keep(connection: Connection, rows: Sequence[Projected]) -> None:
    """See `Projection.write`; for those who have a connection of their own."""
    if not rows:
        return
    snapshots = [row.snapshot for row in rows]
    arguments = (
        *_names([row.stream for row in rows]),
        [snapshot.version for snapshot in snapshots],
        [snapshot.fold for snapshot in snapshots],
        [row.labels.status for row in rows],
        [row.labels.project for row in rows],
        [snapshot.data.decode() for snapshot in snapshots],
        [row.updated_at for row in rows],
    )
    await fetch(connection, WRITE, arguments)


async def forget(connection: Connection, sid: int, version: int, fold: int) -> bool:
    """Throw the snapshot of a stream away, if it is still this one."""
    return bool(await fetch(connection, FORGET, (sid, version, fold)))


def _names(streams: Sequence[StreamId]) -> tuple[list[str], list[str]]:
    return [stream.category for stream in streams], [stream.id for stream in streams]


def _snapshot(version: int | None, fold: int | None, data: bytes | None) -> Snapshot | None:
    if version is None or fold is None or data is None:
        return None
    return Snapshot(version, fold, data)
