"""Bus: the doorbell between processes. Implementations in `buses/`; one contract suite runs over all of them.

A ring carries the events, so that nobody needs a read; but it is not the truth. It may be lost, doubled, late or out of
order: a tail sees that by the versions and reads the log. So nothing here ever blocks or fails an append, and a bus
that is away costs viewers a second (the hub's sweep), never an event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from eventstore.event import Event, StreamId

Hear = Callable[[Sequence[Event]], None]
"""Called with events of one stream, in the order rung."""

Lost = Callable[[], None]
"""Called when rings may have been lost (the connection was away): whoever watches should look into the log."""


class Bus(Protocol):
    """Rings go to every process that watches the stream, this one included or not."""

    def ring(self, events: Sequence[Event]) -> None:
        """Tell the other processes. Returns at once; rings that cannot be sent are dropped and counted."""
        ...

    async def watch(self, stream: StreamId) -> None:
        """Hear this stream's rings from now on; waits for the bus at most a second, else it is done later."""
        ...

    async def unwatch(self, stream: StreamId) -> None:
        """Hear this stream's rings no longer."""
        ...

    async def run(self, hear: Hear, lost: Lost) -> None:
        """Carry rings until cancelled; survives every outage."""
        ...
