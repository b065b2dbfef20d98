"""Every connection of the store is busy: callers queue, then hear that they may try again, and nobody crashes.

What keeps them busy is another program that holds streams, or work that joins an append and sleeps in Postgres. (One
stream that is held, one connection that is taken, a backend that is frozen: test_postgres_faults.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import NewEvent, StreamId
from eventstore.errors import Unavailable
from eventstore.stores.postgres import PostgresStore

Sql = AsyncConnection[Any]
HELD = [StreamId("build", f"held-{n}") for n in range(6)]
FREE = [StreamId("build", f"free-{n}") for n in range(6)]
CONNECTIONS = 4


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def held(database: str, streams: Sequence[StreamId]) -> AsyncIterator[None]:
    """Another program that has locked these streams and does not come to its end."""
    async with await psycopg.AsyncConnection.connect(database) as holder:
        for stream in streams:
            await holder.execute(
                "SELECT version FROM streams WHERE category = %s AND id = %s FOR UPDATE", (stream.category, stream.id)
            )
        yield


def sleeping(seconds: float) -> Callable[[Sql], Awaitable[None]]:
    """Work that joins an append and keeps its connection for so long."""

    async def also(connection: Sql) -> None:
        await connection.execute("SELECT pg_sleep(%s)", [seconds])

    return also


def custom(n: int = 0, key: str | None = None) -> NewEvent:
    return NewEvent("custom", {"n": n}, key=key)


async def backends(sql: Sql) -> int:
    found = await sql.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'foldstream'"
    )
    [row] = await found.fetchall()
    return int(row[0])


async def outcomes(calls: Sequence[Awaitable[Any]]) -> tuple[list[Any], list[Unavailable]]:
    """What was answered and what was turned down; anything else that is raised fails the test."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    down = [answer for answer in answers if isinstance(answer, Unavailable)]
    others = [answer for answer in answers if isinstance(answer, BaseException) and answer not in down]
    assert others == []
    assert all(error.retryable and error.retry_after for error in down)
    return [answer for answer in answers if not isinstance(answer, BaseException)], down


async def test_who_finds_no_connection_waits_for_one(sql: Sql, database: str) -> None:
    async with PostgresStore(database, smallest=1, largest=CONNECTIONS, patience=10.0) as store:
        await asyncio.gather(*(store.append(stream, [custom()]) for stream in FREE))
        slow = [
            store.append(StreamId("build", f"slow-{n}"), [custom()], also=sleeping(0.1)) for n in range(3 * CONNECTIONS)
        ]
        reads = [store.read(stream) for stream in FREE for _ in range(20)]
        appends = [store.append(stream, [custom(n)]) for stream in FREE for n in range(20)]
        answered, down = await outcomes([*slow, *reads, *appends])
        assert down == [], "there was patience enough for all"
        assert len(answered) == len(slow) + len(reads) + len(appends)
        assert await backends(sql) <= CONNECTIONS
        assert await store.heads(FREE) == dict.fromkeys(FREE, 21)


async def test_held_streams_keep_the_others_waiting_and_not_for_ever(sql: Sql, database: str) -> None:
    patience = 1.0
    async with PostgresStore(database, smallest=1, largest=CONNECTIONS, patience=patience) as store:
        await asyncio.gather(*(store.append(stream, [custom()]) for stream in HELD + FREE))
        async with held(database, HELD):
            start = time.monotonic()
            calls = [store.append(stream, [custom(n)]) for n in range(20) for stream in HELD]
            calls += [store.append(stream, [custom(n)]) for n in range(20) for stream in FREE]
            reads = [store.read(stream) for stream in HELD + FREE for _ in range(5)]
            answered, down = await outcomes([*calls, *reads])
            assert time.monotonic() - start < 2 * patience + 2, "once for its turn, once for the database"
            assert len(down) >= 20 * len(HELD)
            assert all("nothing was recorded" in error.detail or "nothing was sent" in error.detail for error in down)
            assert await store.heads(HELD) == dict.fromkeys(HELD, 1)
            assert len(answered) >= 1
        again = await asyncio.gather(*(store.append(stream, [custom(99)]) for stream in HELD + FREE))
        assert [answer[0].version for answer in again[: len(HELD)]] == [2] * len(HELD), "nothing came later"
        for stream in FREE:
            log = await store.read(stream)
            assert [event.version for event in log] == list(range(1, len(log) + 1))
        assert await backends(sql) <= CONNECTIONS


async def test_when_even_reads_stand_still_everybody_is_told_in_time(sql: Sql, database: str) -> None:
    patience = 1.0
    async with PostgresStore(database, smallest=1, largest=CONNECTIONS, patience=patience) as store:
        await asyncio.gather(*(store.append(stream, [custom()]) for stream in FREE))
        async with await psycopg.AsyncConnection.connect(database) as holder:
            await holder.execute("LOCK TABLE streams, events IN ACCESS EXCLUSIVE MODE")
            start = time.monotonic()
            reads = [store.read(stream) for stream in FREE for _ in range(20)]
            appends = [store.append(stream, [custom(n)]) for stream in FREE for n in range(20)]
            answered, down = await outcomes([*reads, *appends, store.heads(FREE), store.recent("build")])
            assert answered == []
            assert len(down) == 242
            assert time.monotonic() - start < 2 * patience + 2
            await holder.rollback()
            answered, down = await outcomes([store.append(stream, [custom(99)]) for stream in FREE])
        assert down == []
        assert [events[0].version for events in answered] == [2] * len(FREE)
        assert [len(await store.read(stream)) for stream in FREE] == [2] * len(FREE)
        assert await backends(sql) <= CONNECTIONS


async def test_slow_work_leaves_connections_to_the_others(sql: Sql, database: str) -> None:
    begun: list[int] = []
    release = asyncio.Event()

    async def dawdle(connection: Sql) -> None:
        begun.append(connection.info.backend_pid)
        await connection.execute("SELECT 1")
        await release.wait()

    async with PostgresStore(database, smallest=1, largest=CONNECTIONS, patience=10.0) as store:
        slow = [
            asyncio.create_task(store.append(StreamId("build", f"slow-{n}"), [custom()], also=dawdle))
            for n in range(3 * CONNECTIONS)
        ]
        calls = [call for stream in FREE for call in (store.append(stream, [custom()]), store.read(HELD[0]))]
        _, down = await outcomes([*calls, store.ping()])
        assert down == []
        assert not any(task.done() for task in slow), "all of that while the slow work was under way"
        assert len(begun) <= CONNECTIONS // 2
        release.set()
        answered, down = await outcomes(slow)
        assert down == []
        assert len(answered) == len(begun) == len(slow)
        assert await backends(sql) <= CONNECTIONS


async def test_slow_work_is_ended_by_the_servers_clock_and_takes_its_append_with_it(database: str) -> None:
    async with PostgresStore(database, smallest=1, largest=1, patience=0.5) as store:
        slow = asyncio.create_task(store.append(HELD[0], [custom()], also=sleeping(30)))
        with pytest.raises(Unavailable, match="statement timeout; nothing was recorded"):
            await slow
        assert await store.read(HELD[0]) == []
        assert len(await store.append(HELD[0], [custom()])) == 1


async def test_more_than_may_wait_is_turned_down_and_leaves_nothing_behind(database: str) -> None:
    async with PostgresStore(database, smallest=1, largest=CONNECTIONS, patience=1.0) as store:
        await store.append(HELD[0], [custom()])
        async with held(database, HELD[:1]):
            answered, down = await outcomes([store.append(HELD[0], [custom(n)]) for n in range(2100)])
            assert answered == []
            assert len(down) == 2100
            assert all("nothing was recorded" in error.detail for error in down)
        answered, down = await outcomes([store.append(HELD[0], [custom(n)]) for n in range(2100)])
        assert down == []
        assert await store.heads(HELD[:1]) == {HELD[0]: 2101}
        assert {events[0].version for events in answered} == set(range(2, 2102))


async def test_a_key_goes_through_once_however_often_it_was_turned_down(database: str) -> None:
    async with PostgresStore(database, smallest=1, largest=2, patience=0.5) as store:
        await store.append(HELD[0], [custom()])
        async with held(database, HELD[:1]):
            for _ in range(3):
                _, down = await outcomes([store.append(HELD[0], [custom(1, "the-key")]) for _ in range(5)])
                assert len(down) == 5
        answers = await asyncio.gather(*(store.append(HELD[0], [custom(1, "the-key")]) for _ in range(5)))
        assert {event.version for [event] in answers} == {2}
        assert len(await store.read(HELD[0])) == 2
