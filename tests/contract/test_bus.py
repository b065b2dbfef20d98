"""The contract of the bus, over both implementations: rings reach every other watcher, in order, and block nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest

from eventstore import START, Event, StreamId
from streaming.bus import Bus
from streaming.buses.lossy import LossyBus
from streaming.buses.memory import Exchange, MemoryBus
from streaming.buses.redis import RedisBus
from streaming.metrics import Metrics

ONE, OTHER = StreamId("build", "1"), StreamId("build", "2")
MakeBus = Callable[[], Bus]


def event(version: int, stream: StreamId = ONE, json: bytes = b'{"message":"caf\xc3\xa9"}') -> Event:
    at = datetime(2025, 7, 22, 7, 13, 50, 123456, UTC)
    return Event(stream, version, START, "task_started", json, at, "request-1")


@pytest.fixture(params=["memory", "redis", "lossy"])
def make_bus(request: pytest.FixtureRequest) -> MakeBus:
    exchange = Exchange()
    if request.param == "memory":
        return lambda: MemoryBus(exchange)
    url = request.getfixturevalue("redis_url")
    prefix = f"test:{id(exchange)}"
    if request.param == "redis":
        return lambda: RedisBus(url, prefix, Metrics())
    return lambda: LossyBus(RedisBus(url, prefix, Metrics()), drop=lambda: False)


class Listener:
    """Somebody on a bus of his own, and what he heard."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.connected = anyio.Event()
        self._news = anyio.Event()

    def hear(self, events: Sequence[Event]) -> None:
        self.heard.extend(events)
        self._news.set()

    async def until(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.heard) < count:
                await self._news.wait()
                self._news = anyio.Event()


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Listener]:
    listener = Listener()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bus.run, listener.hear, listener.connected.set)
        if not isinstance(bus, MemoryBus):
            with anyio.fail_after(10):
                await listener.connected.wait()
        else:
            await anyio.lowlevel.checkpoint()
        yield listener
        tasks.cancel_scope.cancel()


@pytest.mark.req("K-06", "K-07", "S2-46")
async def test_a_ring_reaches_the_watchers_of_other_processes(make_bus: MakeBus) -> None:
    ringer, watcher = make_bus(), make_bus()
    async with running(ringer), running(watcher) as listener:
        await watcher.watch(ONE)
        ringer.ring([event(1), event(2)])
        ringer.ring([event(3)])
        await listener.until(3)
    assert listener.heard == [event(1), event(2), event(3)]


async def test_rings_of_other_streams_are_not_heard(make_bus: MakeBus) -> None:
    ringer, watcher = make_bus(), make_bus()
    async with running(ringer), running(watcher) as listener:
        await watcher.watch(ONE)
        ringer.ring([event(1, OTHER)])
        ringer.ring([event(1)])
        await listener.until(1)
    assert [heard.stream for heard in listener.heard] == [ONE]


async def test_a_stream_that_is_no_longer_watched_is_not_heard(make_bus: MakeBus) -> None:
    ringer, watcher = make_bus(), make_bus()
    async with running(ringer), running(watcher) as listener:
        await watcher.watch(ONE)
        await watcher.watch(OTHER)
        await watcher.unwatch(OTHER)
        ringer.ring([event(1, OTHER)])
        ringer.ring([event(1)])
        await listener.until(1)
    assert [heard.stream for heard in listener.heard] == [ONE]


async def test_a_ring_before_anybody_runs_is_harmless(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.ring([event(1)])
    async with running(bus) as listener:
        await bus.watch(ONE)
        bus.ring([event(2)])
        while event(2) not in listener.heard:
            await listener.until(len(listener.heard) + 1)
    assert listener.heard[-1] == event(2)


async def test_big_and_odd_data_arrives_byte_for_byte(make_bus: MakeBus) -> None:
    ringer, watcher = make_bus(), make_bus()
    odd = '{"text":"a\\nb \\u2028 \\"quoted\\" \\\\ 日本"}'.encode()
    big = b'{"text":"' + b"x" * 60_000 + b'"}'
    async with running(ringer), running(watcher) as listener:
        await watcher.watch(ONE)
        ringer.ring([event(1, json=odd)])
        ringer.ring([event(2, json=big)])
        await listener.until(2)
    assert [heard.json for heard in listener.heard] == [odd, big]


async def test_a_message_that_is_no_ring_ends_nothing(redis_url: str) -> None:
    import msgspec
    import redis.asyncio as redis

    bus = RedisBus(redis_url, "test:odd", Metrics())
    async with running(bus) as listener, redis.from_url(redis_url) as stranger:
        await bus.watch(ONE)
        for message in (b"", b"x", msgspec.msgpack.encode(("x", [])), msgspec.msgpack.encode(("build-2", []))):
            await stranger.publish(f"test:odd:{ONE}", message)
        bus.ring([event(1)])
        await listener.until(1)
    assert listener.heard == [event(1)]


async def test_connections_that_are_killed_while_watchers_come_and_go_end_nothing(redis_url: str) -> None:
    import redis.asyncio as redis

    bus = RedisBus(redis_url, "test:killed", Metrics())
    async with running(bus) as listener, redis.from_url(redis_url) as admin:
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(bus.watch, StreamId("build", f"b{number}"))
                    tasks.start_soon(bus.unwatch, StreamId("build", f"b{number}"))
                tasks.start_soon(admin.execute_command, "CLIENT", "KILL", "TYPE", "pubsub")
        with anyio.fail_after(20):
            while not listener.heard:
                await bus.watch(ONE)
                bus.ring([event(1)])
                with anyio.move_on_after(0.2):
                    await listener.until(1)
    assert listener.heard[0] == event(1)
