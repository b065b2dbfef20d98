"""Hub and tails: whatever the bus loses, doubles or delays, every member gets every event, in order, once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Event, NewEvent, StreamId
from eventstore.shape import Field
from eventstore.states import States
from eventstore.stores.memory import MemoryStore
from streaming.buses.memory import Exchange, MemoryBus
from streaming.hub import Hub
from streaming.metrics import Metrics
from streaming.tail import Tail

pytestmark = pytest.mark.pure

BUILD = StreamId("build", "27")
VERSIONS = (Field.VERSION, b" ")


def versions(events: Any) -> list[int]:
    return [event.version for event in events]


class Reader:
    """A member with room for so many events between two looks; too slow a one is sent back to the log."""

    format = staticmethod(versions)

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: list[int] = []
        self.got: list[int] = []
        self.news = anyio.Event()
        self.times_lagging = 0

    def offer(self, chunk: list[int], version: int) -> bool:
        self.news.set()
        if len(self.held) + len(chunk) > self.room:
            self.held.clear()
            self.times_lagging += 1
            return False
        self.held.extend(chunk)
        return True

    async def follow(self, hub: Hub, upto: int, chance: random.Random) -> None:
        async with hub.watching(BUILD) as tail:
            while True:
                cursor = self.got[-1] if self.got else 0
                while not tail.enter(self, cursor):
                    self.held.clear()
                    page = await tail.render(cursor, VERSIONS)
                    self.got.extend(map(int, page.body.split()))
                    assert page.last == (self.got[-1] if self.got else 0)
                    cursor = page.last
                lagging = self.times_lagging
                try:
                    while self.times_lagging == lagging:
                        self.got.extend(self.held)
                        self.held.clear()
                        if self.got and self.got[-1] >= upto:
                            return
                        if chance.random() < 0.3:
                            await anyio.lowlevel.checkpoint()
                        await self.news.wait()
                        self.news = anyio.Event()
                finally:
                    tail.leave(self)


@asynccontextmanager
async def two_processes(seed: int, loss: float) -> AsyncIterator[tuple[MemoryStore, Hub, Hub]]:
    """One store; the hub of the process that appends, and the hub of another, joined by a bus that loses rings."""
    chance = random.Random(seed)

    async def delay() -> None:
        for _ in range(chance.randrange(4)):
            await anyio.lowlevel.checkpoint()

    exchange = Exchange(drop=lambda: chance.random() < loss)
    hubs: list[Hub] = []
    store = MemoryStore(announce=lambda events: hubs[0].announce(events), delay=delay)
    hubs.extend(Hub(store, States(store), MemoryBus(exchange), Metrics(), sweep_seconds=0.01) for _ in range(2))
    async with anyio.create_task_group() as tasks:
        for hub in hubs:
            tasks.start_soon(hub.run)
        await anyio.lowlevel.checkpoint()
        yield store, hubs[0], hubs[1]
        tasks.cancel_scope.cancel()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0, 0.2, 1]),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=25),
    rooms=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_every_member_gets_every_event_in_order_once(
    seed: int, loss: float, batches: list[int], rooms: list[int]
) -> None:
    total = sum(batches)

    async def scenario() -> list[list[int]]:
        chance = random.Random(seed)
        readers = [Reader(room) for room in rooms]
        async with two_processes(seed, loss) as (store, near, far):
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:

                    async def append() -> None:
                        for size in batches:
                            await store.append(BUILD, [NewEvent("status", {"n": n}) for n in range(size)])
                            if chance.random() < 0.5:
                                await anyio.lowlevel.checkpoint()

                    tasks.start_soon(append)
                    for number, reader in enumerate(readers):
                        for _ in range(chance.randrange(6)):
                            await anyio.lowlevel.checkpoint()
                        tasks.start_soon(reader.follow, far if number % 2 else near, total, chance)
            assert near._tails == {}, "a tail that nobody watches is forgotten"
            assert far._tails == {}
        return [reader.got for reader in readers]

    for got in anyio.run(scenario):
        assert got == list(range(1, total + 1))


async def open_tail(store: MemoryStore) -> Tail:
    tail = Tail(BUILD, store, States(store))
    await tail.open()
    return tail


async def filled(count: int) -> tuple[MemoryStore, list[Event]]:
    store = MemoryStore()
    events = await store.append(BUILD, [NewEvent("status") for _ in range(count)])
    return store, events


async def test_a_hole_is_never_taken() -> None:
    _, events = await filled(3)
    tail = Tail(BUILD, MemoryStore(), States(MemoryStore()))
    await tail.open()
    tail.deliver([events[0], events[2]])
    assert (tail.cursor, tail.behind) == (1, True)
    tail.deliver([events[1], events[1], events[2]])
    assert tail.cursor == 3


async def test_events_that_come_while_a_tail_opens_are_kept() -> None:
    store, _ = await filled(2)
    tail = Tail(BUILD, store, States(store))
    more = await store.append(BUILD, [NewEvent("status")])
    tail.deliver(more)
    assert tail.cursor == 0
    await tail.open()
    assert tail.cursor == 3


async def test_nobody_enters_ahead_of_the_tail() -> None:
    store, _ = await filled(2)
    tail = await open_tail(store)
    assert not tail.enter(Reader(10), 3)


async def test_a_far_reader_is_sent_to_the_log_and_a_near_one_is_served_at_once() -> None:
    store, _ = await filled(5)
    tail = await open_tail(store)
    assert not tail.enter(Reader(10), 2)
    tail.deliver(await store.append(BUILD, [NewEvent("status")]))
    near = Reader(10)
    assert tail.enter(near, 5)
    assert near.held == [6]


async def test_one_encoding_serves_all_members() -> None:
    store, _ = await filled(1)
    tail = await open_tail(store)
    readers = [Reader(10) for _ in range(100)]
    chunks = set()
    for reader in readers:
        reader.offer = lambda chunk, version: bool(chunks.add(id(chunk))) or True  # type: ignore[method-assign]
        assert tail.enter(reader, 1)
    tail.deliver(await store.append(BUILD, [NewEvent("status")]))
    assert len(chunks) == 1


async def test_a_watcher_that_is_cancelled_while_opening_hurts_nobody() -> None:
    async with two_processes(1, 0) as (store, near, _):
        await store.append(BUILD, [NewEvent("status")])

        async def hurried() -> None:
            with anyio.move_on_after(0):
                async with near.watching(BUILD):
                    pass

        reader = Reader(10)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hurried)
                tasks.start_soon(reader.follow, near, 1, random.Random(1))
        assert reader.got == [1]
