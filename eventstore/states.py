"""States: the state of any stream, exact at the moment of the call.

A state is folded from the log; what was folded last time is kept as an `At` (at most ``keep`` of them, least recently
used leave first), so that the next call reads only the events since. It is a cache of snapshots and never a truth.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from eventstore.categories import BY_NAME
from eventstore.event import StreamId
from eventstore.fold import At
from eventstore.store import PAGE, Store


class States:
    """Folds streams of ``store`` by their category."""

    def __init__(self, store: Store, *, keep: int = 10_000) -> None:
        self._store = store
        self._keep = keep
        self._kept: OrderedDict[StreamId, At[Any]] = OrderedDict()

    async def at(self, stream: StreamId) -> At[Any]:
        """The state at the end of the log (version 0: no such stream). Raises Invalid, Unavailable."""
        fold = BY_NAME[stream.category].fold
        at = self.kept(stream)
        while True:
            page = await self._store.read(stream, at.version)
            at = fold(page, since=at)
            if len(page) < PAGE:
                break
        self._keep_newest(stream, at)
        return at

    def kept(self, stream: StreamId) -> At[Any]:
        """What was known when the log was last read: for answers while the store is away. Reads nothing."""
        return self._kept.get(stream) or At(BY_NAME[stream.category].fold.initial, 0)

    def _keep_newest(self, stream: StreamId, at: At[Any]) -> None:
        kept = self._kept.get(stream)
        if at.version and (kept is None or kept.version <= at.version):
            self._kept[stream] = at
            self._kept.move_to_end(stream)
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)
