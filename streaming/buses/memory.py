"""MemoryBus: the twin of the Redis bus within one process. Buses made of the same `Exchange` hear each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from eventstore.event import Event, StreamId
from streaming.bus import Hear, Lost


class Exchange:
    """Where memory buses meet. ``drop`` says for each delivery whether it is lost (tests of healing)."""

    def __init__(self, drop: Callable[[], bool] = lambda: False) -> None:
        self.drop = drop
        self.buses: list[MemoryBus] = []


class MemoryBus:
    """See `streaming.bus.Bus`."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self._exchange = exchange or Exchange()
        self._watched: set[StreamId] = set()
        self._hear: Hear | None = None

    def ring(self, events: Sequence[Event]) -> None:
        for bus in self._exchange.buses:
            if bus._hear is not None and events and events[0].stream in bus._watched and not self._exchange.drop():
                bus._hear(events)

    async def watch(self, stream: StreamId) -> None:
        self._watched.add(stream)

    async def unwatch(self, stream: StreamId) -> None:
        self._watched.discard(stream)

    async def run(self, hear: Hear, lost: Lost) -> None:
        self._hear = hear
        self._exchange.buses.append(self)
        try:
            await anyio.sleep_forever()
        finally:
            self._exchange.buses.remove(self)
            self._hear = None
