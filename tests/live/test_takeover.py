"""Projectors as processes: one is killed, or stopped and woken; another takes over, and every row stays right."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from eventstore import NewEvent, StreamId
from eventstore.projector import NAME
from eventstore.stores.postgres import PostgresStore
from tests.projection import snapshots_of, until_projected

pytestmark = pytest.mark.live

BUILD = StreamId("build", "27")
LEASE = 1.0


@asynccontextmanager
async def process(dsn: str) -> AsyncIterator[Process]:
    module = "tests.eventstore.projector_process"
    running = await asyncio.create_subprocess_exec(sys.executable, "-m", module, dsn, str(LEASE), stdout=PIPE)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.wait()


async def says(running: Process, word: str) -> None:
    assert running.stdout is not None
    line = await asyncio.wait_for(running.stdout.readline(), 15)
    assert line.decode().strip() == word


async def test_another_takes_over_soon_after_a_kill(database: str) -> None:
    async with PostgresStore(database) as store, process(database) as first:
        await says(first, "leads")
        async with process(database) as second:
            await store.append(BUILD, [NewEvent("custom")])
            await until_projected(snapshots_of(store), BUILD, 1)
            first.kill()
            await store.append(BUILD, [NewEvent("custom")])
            begin = asyncio.get_running_loop().time()
            await says(second, "leads")
            assert asyncio.get_running_loop().time() - begin < 2 * LEASE + 1
            await until_projected(snapshots_of(store), BUILD, 2)


async def test_one_that_was_stopped_and_wakes_up_moves_nothing(database: str) -> None:
    """As after a laptop's sleep: it goes on in the middle of what it did, and believes in its lease."""
    async with PostgresStore(database) as store, process(database) as first:
        await says(first, "leads")
        async with process(database) as second:
            for _ in range(200):
                await store.append(BUILD, [NewEvent("custom")])
            first.send_signal(signal.SIGSTOP)
            for _ in range(200):
                await store.append(BUILD, [NewEvent("custom")])
            await says(second, "leads")
            await until_projected(snapshots_of(store), BUILD, 400)
            async with store.connections.take() as connection:
                sql = "SELECT owner, tx::text, position FROM followers WHERE name = %s"
                before = await (await connection.execute(sql, (NAME,))).fetchone()
                first.send_signal(signal.SIGCONT)
                await says(first, "lost")
                after = await (await connection.execute(sql, (NAME,))).fetchone()
            assert before == after
            await store.append(BUILD, [NewEvent("custom")])
            snapshot = await until_projected(snapshots_of(store), BUILD, 401)
            assert snapshot.version == 401
