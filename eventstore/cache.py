"""Cache: states in memory, least recently used leave first, bounded by their size.

The bound is in bytes of JSON, as an estimate: what a Python object takes is a few times that. To weigh a state at every
event would cost more than folding it, so its weight is guessed from the events that went into it, which is never too
little, and measured each time the guess has doubled.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from eventstore.category import Category
from eventstore.event import StreamId
from eventstore.fold import At
from eventstore.frozen import freeze

KEEP_BYTES = 32_000_000
OVERHEAD = 1_000
SMALL = 16_000


@dataclass(slots=True)
class _Entry:
    at: At[Any]
    size: int
    measured: int = 0


class Cache:
    """most_bytes: of JSON, together."""

    def __init__(self, most_bytes: int = KEEP_BYTES) -> None:
        self._most_bytes = most_bytes
        self._entries: OrderedDict[StreamId, _Entry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, stream: StreamId) -> At[Any] | None:
        """What is kept of it."""
        entry = self._entries.get(stream)
        if entry is None:
            return None
        self._entries.move_to_end(stream)
        return entry.at

    def put(self, stream: StreamId, category: Category[Any], at: At[Any], grown: int) -> None:
        """Keep ``at``, unless something newer is kept. grown: bytes of what was folded in since the last time."""
        entry = self._entries.get(stream)
        if entry is None:
            entry = self._entries[stream] = _Entry(at, OVERHEAD)
            self.size += OVERHEAD
        elif entry.at.version > at.version:
            return
        entry.at = at
        self._weigh(entry, category, grown)
        self._entries.move_to_end(stream)
        while self.size > self._most_bytes and self._entries:
            _, left = self._entries.popitem(last=False)
            self.size -= left.size

    def drop(self, stream: StreamId) -> None:
        """Forget it."""
        entry = self._entries.pop(stream, None)
        if entry is not None:
            self.size -= entry.size

    def _weigh(self, entry: _Entry, category: Category[Any], grown: int) -> None:
        size = entry.size + grown
        if size > 2 * entry.measured + SMALL:
            try:
                size = entry.measured = OVERHEAD + len(freeze(category, entry.at))
            except ValueError:
                entry.measured = size  # nested too deeply to be written: the guess has to do
        self.size += size - entry.size
        entry.size = size
