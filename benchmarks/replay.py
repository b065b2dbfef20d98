"""replay: one stream from its first event to its last, as Server-Sent Events that are ready to be sent.

`python -m benchmarks.replay DATABASE_URL STREAM` replays once in a process of its own and prints what that took: the
memory of a process that has done nothing else is the only honest one.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import orjson
import uvloop
from psycopg import AsyncConnection
from psycopg.types.json import set_json_loads

from eventstore.event import StreamId
from eventstore.page import PAGE, Span
from eventstore.stores.postgres import PostgresStore
from streaming import wire

OLD_PAGE = """
SELECT id, event_type, event_data, created_at FROM project_build_events
WHERE build_id = %s AND id > %s ORDER BY id LIMIT %s
"""

Chunks = AsyncIterator[tuple[int, bytes]]
"""The events of a page and their frames, page by page."""


class Codec(NamedTuple):
    """How JSON is decoded and encoded."""

    loads: Callable[[bytes | str], Any]
    dumps: Callable[[Any], bytes]


STANDARD = Codec(json.loads, lambda value: json.dumps(value).encode())
ORJSON = Codec(orjson.loads, orjson.dumps)


async def rendered(store: PostgresStore, stream: StreamId) -> Chunks:
    """Ours: the server writes the frames of a page."""
    shape = wire.sse_shape(stream)
    cursor = 0
    while True:
        page = await store.render(stream, shape, Span(cursor))
        if page.count:
            yield page.count, page.body
        cursor = page.last
        if cursor >= page.head:
            return


async def objects(store: PostgresStore, stream: StreamId) -> Chunks:
    """Ours, through `Event`: what folds and live delivery do. What is stored goes to the wire as it is here, too."""
    cursor = 0
    while page := await store.read(stream, cursor):
        yield len(page), wire.sse(page)
        cursor = page[-1].version
        if len(page) < PAGE:
            return


async def decoded(connection: AsyncConnection, stream: StreamId, codec: Codec) -> Chunks:
    """The usual way: the old documents' query, each event decoded to a dict and encoded again."""
    set_json_loads(codec.loads, connection)
    cursor = 0
    while True:
        rows = await (await connection.execute(OLD_PAGE, (stream.id, cursor, PAGE), prepare=True)).fetchall()
        if not rows:
            return
        yield len(rows), b"".join([_frame(codec, stream, row) for row in rows])
        cursor = rows[-1][0]
        if len(rows) < PAGE:
            return


def _frame(codec: Codec, stream: StreamId, row: tuple[Any, ...]) -> bytes:
    id_, type_, data, at = row
    event = {"id": id_, "type": type_, "data": data, "timestamp": f"{at.isoformat(timespec='milliseconds')}Z"}
    return b"id: %d\ndata: %b\n\n" % (id_, codec.dumps({**event, "buildId": stream.id, "requestId": stream.id}))


async def _once(url: str, stream: StreamId) -> dict[str, int]:
    async with PostgresStore(url, smallest=1) as store:
        events = 0
        async for count, _ in rendered(store, stream):
            events += count
    return {"events": events, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_once(sys.argv[1], StreamId.parse(sys.argv[2])))))
