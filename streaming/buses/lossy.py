"""LossyBus: a bus that throws away some of what it hears. For tests of healing on real processes (FAULT_DROP_RINGS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eventstore.event import Event, StreamId
from streaming.bus import Bus, Hear, Lost


class LossyBus:
    """See `streaming.bus.Bus`. ``drop`` is asked for each message heard."""

    def __init__(self, bus: Bus, drop: Callable[[], bool]) -> None:
        self._bus = bus
        self._drop = drop
        self.dropped = 0

    def ring(self, events: Sequence[Event]) -> None:
        self._bus.ring(events)

    async def watch(self, stream: StreamId) -> None:
        await self._bus.watch(stream)

    async def unwatch(self, stream: StreamId) -> None:
        await self._bus.unwatch(stream)

    async def run(self, hear: Hear, lost: Lost) -> None:
        def hear_some(events: Sequence[Event]) -> None:
            if self._drop():
                self.dropped += 1
            else:
                hear(events)

        await self._bus.run(hear_some, lost)
