"""RedisBus: one Redis pub/sub channel for each stream. Survives every outage of Redis; never makes an append wait.

Rings wait in a bounded queue for one sender task, which writes them in pipelines. One listener task owns the
subscribing connection: it alone connects, reads, and connects again; others only write SUBSCRIBE to it. After each new
connection the hub is told that rings may have been lost. A connection that is silent though it was pinged counts as
dead.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from eventstore.event import Event, StreamId
from streaming.bus import Hear, Lost
from streaming.metrics import Metrics
from streaming.wire import bus_message, from_bus

log = logging.getLogger(__name__)

MAX_QUEUED = 10_000
PIPELINE = 500
MAX_MESSAGE_BYTES = 1_000_000
"""Above it Redis may cut slow subscribers off: such a ring is dropped, and the sweep does its work."""
PING_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 1.0


class RedisBus:
    """See `streaming.bus.Bus`. ``prefix`` keeps stores apart that share one Redis (the store's epoch is a good one)."""

    def __init__(self, url: str, prefix: str, metrics: Metrics, *, jitter: Callable[[], float] = lambda: 1.0) -> None:
        once = Retry(NoBackoff(), 0)  # the loops below are the retry
        self._sender = redis.from_url(url, retry=once, socket_timeout=2, socket_connect_timeout=2)
        # RESP2: there messages of a subscription are plain answers, read like any other.
        self._listener = redis.from_url(url, retry=once, socket_connect_timeout=2, protocol=2).connection_pool
        self._connection: AbstractConnection | None = None
        self._prefix = f"{prefix}:"
        self._alive = f"{self._prefix}alive"
        self._metrics = metrics
        self._jitter = jitter
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued = anyio.Event()
        self._watched: dict[str, anyio.Event] = {}

    def ring(self, events: Sequence[Event]) -> None:
        if not events:
            return
        message = bus_message(events[0].stream, events)
        if len(self._queue) >= MAX_QUEUED or len(message) > MAX_MESSAGE_BYTES:
            self._metrics.rings.labels("dropped").inc()
            return
        self._queue.append((self._channel(events[0].stream), message))
        self._queued.set()

    async def watch(self, stream: StreamId) -> None:
        channel = self._channel(stream)
        acknowledged = self._watched[channel] = anyio.Event()
        with anyio.move_on_after(1):
            await self._command("SUBSCRIBE", channel)
            await acknowledged.wait()

    async def unwatch(self, stream: StreamId) -> None:
        channel = self._channel(stream)
        self._watched.pop(channel, None)
        with anyio.move_on_after(1):
            await self._command("UNSUBSCRIBE", channel)

    async def run(self, hear: Hear, lost: Lost) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send)
                tasks.start_soon(self._listen, hear, lost)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self._listener.aclose()
                await self._sender.aclose()

    def _channel(self, stream: StreamId) -> str:
        return self._prefix + str(stream)

    async def _command(self, *words: str) -> None:
        """Write to the subscribing connection. If it is away, the listener will subscribe to all that is watched."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            return
        try:
            await connection.send_command(*words, check_health=False)
        except Exception as error:  # noqa: BLE001  # boundary: a connection just being closed raises all sorts
            self._metrics.boundary_errors.labels("bus").inc()
            log.debug("cannot %s: %r; the listener connects again and subscribes to all", words[0], error)

    async def _send(self) -> None:
        while True:
            await self._queued.wait()
            self._queued = anyio.Event()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(PIPELINE, len(self._queue)))]
                try:
                    async with self._sender.pipeline(transaction=False) as pipeline:
                        for channel, message in batch:
                            pipeline.publish(channel, message)
                        await pipeline.execute()
                    self._metrics.rings.labels("sent").inc(len(batch))
                except (RedisError, OSError) as error:
                    self._metrics.rings.labels("failed").inc(len(batch))
                    log.warning("Redis takes no rings (%s): viewers on other processes wait for the sweep", error)
                    await anyio.sleep(0.2)

    async def _listen(self, hear: Hear, lost: Lost) -> None:
        failures = 0
        while True:
            connection: AbstractConnection = self._listener.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SUBSCRIBE", self._alive, *self._watched, check_health=False)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._ping, connection)
                    self._connection = connection
                    while True:
                        answer = await connection.read_response(timeout=math.inf)
                        failures = 0
                        self._take(answer, hear, lost)
            except* (RedisError, OSError) as errors:
                failures += 1
                log.warning("Redis is away (%s): viewers are served by the sweep", errors.exceptions[0])
            finally:
                self._connection = None
                self._metrics.bus_connected.set(0)
                with anyio.CancelScope(shield=True), suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)
            await anyio.sleep(min(MAX_BACKOFF_SECONDS, 0.05 * 2**failures) * self._jitter())

    async def _ping(self, connection: AbstractConnection) -> None:
        while True:
            self._heard = False
            await connection.send_command("PING", check_health=False)
            await anyio.sleep(PING_SECONDS)
            if not self._heard:
                raise ConnectionError(f"no answer to a ping within {PING_SECONDS:g} s")

    def _take(self, answer: list[Any], hear: Hear, lost: Lost) -> None:
        self._heard = True
        match answer:
            case [b"message", channel, message]:
                try:
                    stream, events = from_bus(message)
                    if self._channel(stream) != channel.decode():
                        raise ValueError("it speaks of another stream")
                    hear(events)
                except Exception as error:  # noqa: BLE001  # boundary: one message from outside; the log has the truth
                    self._metrics.rings.labels("unreadable").inc()
                    log.warning("a message on %s is not a ring: %s", channel, error)
                    lost()
                    return
                self._metrics.rings.labels("heard").inc()
            case [b"subscribe", channel, _]:
                name = channel.decode()
                if name == self._alive:  # a new connection: what was rung until now may be lost
                    self._metrics.bus_connected.set(1)
                    lost()
                elif (acknowledged := self._watched.get(name)) is not None:
                    acknowledged.set()
