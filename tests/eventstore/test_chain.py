"""The hash chain: the database and `eventstore.chain` make the same one, whichever way an event came in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import psycopg

from eventstore import chain
from eventstore.event import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore

ROWS = """
SELECT e.version, at, schema, type, key, request_id, traceparent, convert_to(data, 'UTF8'), hash
FROM events e JOIN streams s USING (sid, part) WHERE category = %s AND id = %s ORDER BY e.version
"""
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LONG_AGO = datetime(1969, 7, 20, 20, 17, 40, 123457, tzinfo=UTC)


async def test_every_way_in_makes_the_same_chain(database: str) -> None:
    stream = StreamId("build", "27")
    async with PostgresStore(database) as store, await psycopg.AsyncConnection.connect(database) as sql:
        await store.append(stream, [NewEvent("a"), NewEvent("b", {"text": "ü\n\\"}, key="k", at=LONG_AGO)])
        await store.append(stream, [NewEvent("c", request_id="r", traceparent=TRACE)])
        await store.append(
            stream, [NewEvent("b", {"text": "ü\n\\"}, key="k", at=LONG_AGO), NewEvent("d")]
        )  # the slow way
        await sql.execute("SELECT append_event('build-27', 'e', '{ \"spaced\": 1.0 }', p_key => 'x', p_schema => 3)")
        await sql.commit()
        await asyncio.gather(
            *(store.append(one, [NewEvent("f"), NewEvent("g")]) for one in (StreamId("build", "26"), stream))
        )
        rows = await (await sql.execute(ROWS, (stream.category, stream.id))).fetchall()
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    before = chain.beginning(stream)
    for *facts, hash_ in rows:
        before = chain.link(before, *facts)
        assert hash_ == before, facts
