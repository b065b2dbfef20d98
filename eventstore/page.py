"""Page: which events of a stream are asked for, and the answer as bytes that are ready to be sent.

Pure. Two limits beside the one of the caller: a page ends when its events are large, and it ends when events of the
types asked for are rare. So the cost of one call is bounded whatever lies in the log; `Rendered.last` says where to go
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eventstore.event import Event
from eventstore.shape import Shape, written

PAGE = 1000
"""Events in a page, at most, wherever a caller does not say otherwise."""

PAGE_BYTES = 1_000_000
"""A rendered page ends with the event whose data brings it to so many bytes."""

SCAN = 100_000
"""Versions that are looked at for one rendered page, at most, in search of events of some types."""


class Span(NamedTuple):
    """The first ``limit`` events with versions above ``after`` and below ``before``.

    types     only events of these, as they are stored; none: all. backward: the newest first.
    """

    after: int = 0
    limit: int = PAGE
    before: int | None = None
    types: Sequence[str] = ()
    backward: bool = False

    def bounds(self, head: int) -> tuple[int, int]:
        """Versions strictly between these two are looked at for one page."""
        after = max(self.after, 0)
        before = head + 1 if self.before is None else min(self.before, head + 1)
        if not self.types:
            return after, before
        return (max(after, before - SCAN - 1), before) if self.backward else (after, min(before, after + SCAN + 1))

    def reached(self, last: int | None, head: int, *, whole: bool) -> int:
        """`Rendered.last`. last: the version of the page's last event. whole: all between the bounds was looked at."""
        if not whole:
            return self.after if last is None else last
        after, before = self.bounds(head)
        return after + 1 if self.backward else max(self.after, before - 1)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page, ready to be sent.

    body    the events, one behind the other, in the shape that was asked for. count: how many.
    last    how far was looked. Forward: the cursor to go on from, which passes events of other types, and nothing that
            could still be shown. Backward: the ``before`` to go on from.
    floor   events up to this version have left the log (0: none has). head: the stream's last version.
    """

    body: bytes
    count: int
    last: int
    floor: int
    head: int


def rendered(events: Sequence[Event], shape: Shape, span: Span, floor: int, head: int) -> Rendered:
    """``events``, all that there are between the bounds of ``span`` up to its limit, as a page."""
    count = size = 0
    for event in events:
        if size >= PAGE_BYTES:
            break
        size += len(event.json)
        count += 1
    whole = count == len(events) < span.limit
    last = span.reached(events[count - 1].version if count else None, head, whole=whole)
    return Rendered(b"".join(written(shape, events[:count])), count, last, floor, head)
