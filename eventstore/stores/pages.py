"""Pages: the SQL that reads one stream, as rows or as one value that the server wrote. Pure: no connection.

A page is one range of the primary key, in the one partition in which the stream lies, whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from eventstore.event import StreamId
from eventstore.page import PAGE_BYTES, SCAN, Span
from eventstore.shape import Field, Shape

END = 2**31 - 1  # no version comes so far


def asked(stream: StreamId, span: Span) -> dict[str, Any]:
    """The parameters of `read` and `render`. Numbers as text: by their size they would be of three types, and of three
    prepared statements."""
    return {
        "category": stream.category,
        "id": stream.id,
        "after": str(span.after),
        "before": None if span.before is None else str(span.before),
        "limit": str(span.limit),
        "types": list(span.types),
    }


# LATERAL: the stream's row first, then one range of its events, whatever the planner believes of the tables' sizes at
# the moment in which it makes a session's plan.
@lru_cache
def read(*, types: bool, backward: bool) -> str:
    """The rows of a page. types: only some; backward: the newest first."""
    order = "DESC" if backward else "ASC"
    return f"""
SELECT e.version, e.tx::text::bigint, e.position, e.type, e.data, e.at, e.request_id, e.traceparent, e.schema
FROM streams s CROSS JOIN LATERAL (
    SELECT * FROM events e
    WHERE e.part = s.part AND e.sid = s.sid AND e.version > %(after)s::bigint
          AND e.version < coalesce(%(before)s::bigint, {END})
          {"AND e.type = ANY (%(types)s)" if types else ""}
    ORDER BY e.version {order} LIMIT %(limit)s::bigint
) e
WHERE s.category = %(category)s AND s.id = %(id)s
ORDER BY e.version {order}
"""  # noqa: S608


@lru_cache
def render(frame: str, *, types: bool, backward: bool) -> str:
    """The page as one row. frame: the expression of one event. Between which versions: see `Span.bounds`.

    An event belongs to the page if what stands before it is small enough.
    """
    order, last = ("DESC", "min") if backward else ("ASC", "max")
    after, before, only = "%(after)s::bigint", "least(%(before)s::bigint, s.version + 1)", ""
    if types:
        only = "AND e.type = ANY (%(types)s)"
        if backward:
            after = f"greatest({after}, {before} - {SCAN + 1})"
        else:
            before = f"least({before}, {after} + {SCAN + 1})"
    return f"""
SELECT s.floor, s.version, p.*
FROM streams s CROSS JOIN LATERAL (
    SELECT count(*)::int, count(*) FILTER (WHERE e.fits)::int, {last}(e.version) FILTER (WHERE e.fits),
           min(e.schema)::int, string_agg({frame}, '' ORDER BY e.version {order}) FILTER (WHERE e.fits)
    FROM (
        SELECT *, sum(octet_length(e.data)) OVER (ORDER BY e.version {order} ROWS UNBOUNDED PRECEDING)
                  - octet_length(e.data) < {PAGE_BYTES} AS fits
        FROM (
            SELECT e.version, e.at, e.schema, e.type, e.request_id, e.traceparent, e.data FROM events e
            WHERE e.part = s.part AND e.sid = s.sid AND e.version > {after} AND e.version < {before} {only}
            ORDER BY e.version {order} LIMIT %(limit)s::bigint
        ) e
    ) e
) p
WHERE s.category = %(category)s AND s.id = %(id)s
"""  # noqa: S608


_FIELDS = {
    Field.VERSION: "e.version",
    Field.TYPE: "e.type",
    Field.STREAM: "s.id",
    Field.DATA: r"replace(replace(e.data, E'\n', ' '), E'\r', ' ')",
    Field.AT: """to_char(e.at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",  # cut by Postgres; the session's time zone is UTC
    Field.REQUEST_ID: "CASE WHEN e.request_id IS NULL THEN '\"' || s.id || '\"' ELSE to_json(e.request_id)::text END",
    Field.TRACEPARENT: "e.traceparent",
}


@lru_cache
def frame(shape: Shape) -> tuple[str, Mapping[str, str]]:
    """A shape as an SQL expression, and the parameters that it names: its literals."""
    parts: list[str] = []
    literals: dict[str, str] = {}

    def literal(text: bytes) -> str:
        name = f"literal{len(literals)}"
        literals[name] = text.decode()
        return f"%({name})s::text"

    for piece in shape:
        if isinstance(piece, bytes):
            parts.append(literal(piece))
        elif isinstance(piece, Field):
            parts.append(_FIELDS[piece])
        else:  # NULL as a whole where the field is NULL, and concat leaves that out
            parts.append(f"{literal(piece.before)} || {_FIELDS[piece.field]} || {literal(piece.after)}")
    return f"concat({', '.join(parts)})" if parts else "''", literals
