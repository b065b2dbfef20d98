"""The order over all streams, under transactions that commit in another order than they began.

Each test is one fixed interleaving; the last one leaves it to chance. A reader polls after every step, and in the end
he must have got every event once, each stream in the order of its versions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import START, Event, Position, StreamId
from eventstore.errors import CannotStart
from eventstore.stores.postgres import PostgresStore

Sql = AsyncConnection[Any]
pytestmark = pytest.mark.req("N-07")


class Follower:
    """Reads all streams, from where he stopped."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.seen: list[Event] = []

    async def poll(self) -> list[str]:
        page = await self.store.read_all(self.seen[-1].position if self.seen else START, 100)
        self.seen += page
        return [f"{event.stream.id}{event.version}" for event in page]

    async def until(self, count: int) -> list[str]:
        """Poll until ``count`` events have come; somebody else's transaction may hold them back for a moment."""
        found: list[str] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                found += await self.poll()
        return found


class Programs:
    """Several programs, each with a connection of its own, that append inside their transactions."""

    def __init__(self, connections: list[Sql]) -> None:
        self.connections = connections

    async def begin(self, program: int) -> None:
        await self.connections[program].execute("BEGIN")

    async def append(self, program: int, stream: str) -> None:
        await self.connections[program].execute("SELECT append_event(%s, 'custom', '{}')", (f"build-{stream}",))

    async def begin_and_append(self, program: int, stream: str) -> None:
        await self.begin(program)
        await self.append(program, stream)

    async def end(self, program: int, how: str = "COMMIT") -> None:
        await self.connections[program].execute(how.encode())


@pytest.fixture
async def follower(database: str) -> AsyncIterator[Follower]:
    async with PostgresStore(database) as store:
        yield Follower(store)


@pytest.fixture
async def programs(database: str) -> AsyncIterator[Programs]:
    connections = [await psycopg.AsyncConnection.connect(database, autocommit=True) for _ in range(8)]
    yield Programs(connections)
    for connection in connections:
        await connection.close()


async def test_what_commits_late_holds_back_what_began_later(follower: Follower, programs: Programs) -> None:
    await programs.begin_and_append(0, "a")
    await programs.begin_and_append(1, "b")
    await programs.end(1)
    assert await follower.poll() == [], "b is committed, but a could still come before it"
    await programs.end(0)
    assert await follower.until(2) == ["a1", "b1"]


async def test_three_open_at_once_end_in_reverse(follower: Follower, programs: Programs) -> None:
    for program, stream in enumerate("abc"):
        await programs.begin_and_append(program, stream)
    for program in (2, 1):
        await programs.end(program)
        assert await follower.poll() == []
    await programs.end(0)
    assert await follower.until(3) == ["a1", "b1", "c1"]


async def test_three_open_at_once_end_from_the_middle(follower: Follower, programs: Programs) -> None:
    for program, stream in enumerate("abc"):
        await programs.begin_and_append(program, stream)
    await programs.end(1)
    assert await follower.poll() == []
    await programs.end(0)
    assert await follower.until(2) == ["a1", "b1"]
    assert await follower.poll() == []
    await programs.end(2)
    assert await follower.until(1) == ["c1"]


async def test_what_was_rolled_back_holds_nobody_up_and_leaves_no_hole(follower: Follower, programs: Programs) -> None:
    await programs.begin_and_append(0, "a")
    await programs.append(1, "b")
    assert await follower.poll() == []
    await programs.end(0, "ROLLBACK")
    assert await follower.until(1) == ["b1"]
    await programs.append(2, "a")
    assert await follower.until(1) == ["a1"]


async def test_a_slow_old_transaction_that_writes_last(follower: Follower, programs: Programs) -> None:
    await programs.begin(0)
    await programs.connections[0].execute("SELECT pg_current_xact_id()")
    for stream in "abc":
        await programs.append(1, stream)
    assert await follower.poll() == []
    await programs.append(0, "d")
    await programs.end(0)
    assert await follower.until(4) == ["d1", "a1", "b1", "c1"]


async def test_positions_drawn_in_another_order_than_transactions(follower: Follower, programs: Programs) -> None:
    for program in (0, 1):
        await programs.begin(program)
        await programs.connections[program].execute("SELECT pg_current_xact_id()")
    await programs.append(1, "b")
    await programs.append(0, "a")
    await programs.end(0)
    assert await follower.until(1) == ["a1"]
    await programs.end(1)
    assert await follower.until(1) == ["b1"]


async def test_an_older_transaction_that_appends_to_a_stream_after_a_younger_one(
    follower: Follower, programs: Programs
) -> None:
    """Ordered by transaction alone, a2 would come before a1."""
    await programs.begin(0)
    await programs.connections[0].execute("SELECT pg_current_xact_id()")
    await programs.append(1, "a")
    await programs.append(0, "a")
    await programs.append(0, "z")
    assert await follower.poll() == []
    await programs.end(0)
    assert [event for event in await follower.until(3) if event[0] == "a"] == ["a1", "a2"]


async def test_two_that_wait_for_the_same_stream(follower: Follower, programs: Programs) -> None:
    await programs.begin_and_append(0, "a")
    waiting = [asyncio.create_task(programs.append(program, "a")) for program in (1, 2)]
    assert await follower.poll() == []
    await programs.end(0)
    await asyncio.gather(*waiting)
    assert await follower.until(3) == ["a1", "a2", "a3"]


async def test_a_writer_in_another_database_of_the_server_only_delays(
    follower: Follower, programs: Programs, postgres_server: str
) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_server) as stranger:
        await stranger.execute("SELECT pg_current_xact_id()")
        await programs.append(0, "a")
        assert await follower.poll() == []
        await stranger.commit()
        assert await follower.until(1) == ["a1"]


async def test_a_log_from_another_cluster_is_not_followed(database: str, programs: Programs) -> None:
    """A dump restored into a younger cluster: its transactions lie in the future, so the feed would stand still."""
    await programs.append(0, "a")
    await programs.connections[0].execute("SET session_replication_role = replica")
    await programs.connections[0].execute("UPDATE events SET tx = '999999999999'")
    async with PostgresStore(database) as store:
        with pytest.raises(CannotStart, match="numbered its transactions higher"):
            await store.read_all()
        assert len(await store.read(StreamId("build", "a"))) == 1


async def test_eight_programs_that_dawdle_hide_nothing(follower: Follower, programs: Programs) -> None:
    chance = random.Random(7)
    total = 8 * 40
    rolled_back = 0

    async def dawdle(program: int) -> None:
        nonlocal rolled_back
        for n in range(40):
            await programs.begin(program)
            if chance.random() < 0.3:
                await programs.connections[program].execute("SELECT pg_current_xact_id()")
                await asyncio.sleep(chance.random() * 0.004)
            await programs.append(program, chance.choice("abcdefgh"))
            await asyncio.sleep(chance.random() * 0.004)
            lost = n % 10 == 9
            rolled_back += lost
            await programs.end(program, "ROLLBACK" if lost else "COMMIT")

    writing = asyncio.gather(*(dawdle(program) for program in range(8)))
    while not writing.done():
        await follower.poll()
    await writing
    if len(follower.seen) < total - rolled_back:
        await follower.until(total - rolled_back - len(follower.seen))
    assert len(follower.seen) == total - rolled_back
    positions = [event.position for event in follower.seen]
    assert positions == sorted(set(positions))
    assert positions[0] > Position(0, 0)
    for name in "abcdefgh":
        mine = [event.version for event in follower.seen if event.stream.id == name]
        assert mine == list(range(1, len(mine) + 1))
