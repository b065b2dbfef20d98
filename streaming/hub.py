"""Hub: which streams are watched in this process, and how events reach their tails.

Three ways in, all ending in `Tail.deliver`: `announce` (appends of this process, straight after their commit), the bus
(appends of others) and the sweep. The sweep is the net under the other two: once a second it asks, in one query that
touches no event, which watched streams have a head beyond their tail. So a lost ring, a dead Redis and an append that
nobody announced all cost at most about a second.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from eventstore.errors import FoldstreamError, Unavailable
from eventstore.event import Event, StreamId
from eventstore.states import States
from eventstore.store import Log
from streaming.bus import Bus
from streaming.metrics import Metrics
from streaming.tail import Tail

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0


class Hub:
    """One for each process. `run` it beside the server."""

    def __init__(
        self, store: Log, states: States, bus: Bus, metrics: Metrics, *, sweep_seconds: float = SWEEP_SECONDS
    ) -> None:
        self._store = store
        self._states = states
        self._bus = bus
        self._metrics = metrics
        self._sweep_seconds = sweep_seconds
        self._tails: dict[StreamId, Tail] = {}
        self._tasks: TaskGroup | None = None

    def announce(self, events: Sequence[Event]) -> None:
        """What the store calls after a commit: to the viewers of this process at once, to the others by the bus."""
        for stream_events in _by_stream(events):
            self.deliver(stream_events)
            self._bus.ring(stream_events)
        self._metrics.appended(events)

    def deliver(self, events: Sequence[Event]) -> None:
        """Events of one stream, from wherever."""
        tail = self._tails.get(events[0].stream) if events else None
        if tail is not None:
            tail.deliver(events)
            if tail.behind and not tail.repairing and self._tasks is not None:
                self._tasks.start_soon(self._repair, tail)

    @asynccontextmanager
    async def watching(self, stream: StreamId) -> AsyncIterator[Tail]:
        """The stream's tail, opened, for as long as the context lasts. Raises Unavailable."""
        tail = self._tails.get(stream)
        if tail is None:
            tail = Tail(stream, self._store, self._states)
            # Opened by the hub: whoever came first may be cancelled without hurting those who wait with it.
            self.spawn(self._open, tail)
            self._tails[stream] = tail
            self._metrics.tails.set(len(self._tails))
        tail.watchers += 1
        try:
            await tail.ready.wait()
            if tail.failure is not None:
                raise tail.failure
            yield tail
        finally:
            tail.watchers -= 1
            if tail.watchers == 0 and self._tails.get(stream) is tail:
                del self._tails[stream]
                self._metrics.tails.set(len(self._tails))
                with anyio.CancelScope(shield=True):
                    await self._bus.unwatch(stream)
                    if stream in self._tails:  # somebody came back while the bus was told to forget
                        await self._bus.watch(stream)

    async def run(self) -> None:
        """Carry events until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._bus.run, self.deliver, self._lost)
            while True:
                await anyio.sleep(self._sweep_seconds)
                await self.sweep()

    async def sweep(self) -> None:
        """Find the tails that are behind the log, or ahead of it (it is another one), and let them catch up."""
        cursors = {stream: tail.cursor for stream, tail in self._tails.items() if tail.ready.is_set()}
        try:
            heads = await self._store.heads(cursors) if cursors else {}
        except Unavailable:
            self._metrics.sweeps_failed.inc()  # the store is away: viewers keep what they have until the next sweep
            return
        for stream, cursor in cursors.items():
            tail = self._tails.get(stream)
            head = heads.get(stream, 0)
            if tail is not None and tail.failure is None and (head > tail.cursor or head < cursor):
                self._metrics.gaps_swept.inc()
                await self._repair(tail)

    def nudge(self) -> None:
        """Wake everybody who waits for an event, without one: the server goes down."""
        for tail in list(self._tails.values()):
            tail.nudge()

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run ``work`` in the hub's task group: it ends with the server, and must keep its own errors."""
        if self._tasks is None:
            raise Unavailable("the server is starting or stopping")
        self._tasks.start_soon(work, *args)

    async def _open(self, tail: Tail) -> None:
        try:
            await self._bus.watch(tail.stream)
            await tail.open()
        except Exception as error:  # boundary: one tail's opening; whoever waits for it gets the error
            if not isinstance(error, FoldstreamError):
                log.exception("%r cannot be opened", tail)
            tail.failure = error
            if self._tails.get(tail.stream) is tail:
                del self._tails[tail.stream]
            tail.ready.set()
            if tail.stream not in self._tails:
                await self._bus.unwatch(tail.stream)

    async def _repair(self, tail: Tail) -> None:
        self._metrics.repairs.inc()
        try:
            await tail.catch_up()
        except Unavailable:
            log.warning("the store does not answer: %r will be repaired by a later sweep", tail)
        except Exception:  # boundary: one tail's repair must not stop the hub
            self._metrics.boundary_errors.labels("repair").inc()
            log.exception("%r cannot be repaired", tail)

    def _lost(self) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self.sweep)


def _by_stream(events: Sequence[Event]) -> list[list[Event]]:
    grouped: dict[StreamId, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.stream, []).append(event)
    return list(grouped.values())
