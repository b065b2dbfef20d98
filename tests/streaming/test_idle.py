"""Watching costs no events: a hub with a hundred idle streams looks at their heads, and never into the log itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import anyio
import psycopg
import pytest

from eventstore import NewEvent, StreamId
from eventstore.states import States
from eventstore.stores.postgres import PostgresStore
from streaming.buses.memory import MemoryBus
from streaming.hub import Hub
from streaming.metrics import Metrics
from tests.projection import snapshots_of

BUILDS = [StreamId("build", str(number)) for number in range(100)]

READS = """
SELECT coalesce(sum(t.seq_scan + t.seq_tup_read + coalesce(t.idx_tup_fetch, 0) + i.scans + i.rows), 0)::bigint
FROM pg_stat_user_tables t
JOIN (SELECT relid, sum(idx_scan) AS scans, sum(idx_tup_read) AS rows FROM pg_stat_user_indexes GROUP BY relid) i
USING (relid)
WHERE t.relname = %(table)s OR t.relid IN (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(%(table)s)
)
"""


class Reads(NamedTuple):
    """Scans made and rows read so far, by table and by index: of the log's partitions, and of the table of heads."""

    events: int
    streams: int


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    """A hundred builds. All reads go over one connection, which so can be told to report what it has read."""
    async with PostgresStore(database, smallest=1, largest=2) as store:
        await asyncio.gather(*(store.append(build, [NewEvent("plan_started")]) for build in BUILDS))
        yield store


@asynccontextmanager
async def watched(store: PostgresStore) -> AsyncIterator[Hub]:
    """A hub with an open tail for each build, which sweeps when it is told to."""
    hub = Hub(store, States(store, snapshots_of(store)), MemoryBus(), Metrics(), sweep_seconds=3600)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run)
        await anyio.lowlevel.checkpoint()
        async with AsyncExitStack() as tails:
            for build in BUILDS:
                assert (await tails.enter_async_context(hub.watching(build))).cursor == 1
            yield hub
        tasks.cancel_scope.cancel()


async def reads(store: PostgresStore, database: str) -> Reads:
    """Everything that was read before this call counts."""
    await store.connections.fetch("SELECT pg_stat_force_next_flush()")
    async with await psycopg.AsyncConnection.connect(database) as connection:
        found = [await (await connection.execute(READS, {"table": name})).fetchone() for name in Reads._fields]
    return Reads(*(row[0] for row in found if row))


@pytest.mark.req("S1-09")
async def test_a_hundred_idle_streams_cost_no_look_at_an_event(store: PostgresStore, database: str) -> None:
    async with watched(store) as hub:
        before = await reads(store, database)
        for _ in range(20):
            await hub.sweep()
        after = await reads(store, database)
        assert after.events == before.events
        assert after.streams >= before.streams + 20, "each sweep asked the database"
        await store.read(BUILDS[0])
        assert (await reads(store, database)).events > after.events, "one look at an event would have been seen"
