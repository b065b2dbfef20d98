"""Refold: a fold has changed, and the snapshots that the old one made are made anew, in small steps, while all goes on.

Each row says which fold made it, so nobody has to remember how far this has come: whoever follows next looks again for
what is old. Streams that somebody appends to come first. A row whose stream has lost events stays as it is: it is all
there is.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from eventstore.category import Category
from eventstore.event import StreamId
from eventstore.fold import At
from eventstore.snapshots import Projected, Projection, projected
from eventstore.states import folded_in_turns
from eventstore.store import PAGE, Store

log = logging.getLogger(__name__)

STREAM_COST = 20
"""What beginning a stream costs, in events: so that a step of many short streams is as short as one of a long one."""


def projected_if_possible(
    category: Category[Any], stream: StreamId, at: At[Any], updated_at: datetime
) -> list[Projected]:
    """The row of a stream; none for a state that cannot be written."""
    try:
        return [projected(category, stream, at, updated_at)]
    except ValueError as error:
        log.warning("%s stays without a snapshot and is folded from its events: %s", stream, error)
        return []


class Refold:
    """One walk over the rows of each category, in small steps."""

    def __init__(self, store: Store, rows: Projection, categories: Mapping[str, Category[Any]]) -> None:
        self._store, self._rows, self._categories = store, rows, categories
        self._waiting: deque[StreamId] = deque()
        self._places: dict[str, tuple[int, int]] = dict.fromkeys(categories, (0, 0))
        self._doing: tuple[StreamId, At[Any], datetime | None] | None = None

    @property
    def is_over(self) -> bool:
        """There are no more such rows."""
        return not (self._places or self._waiting or self._doing)

    def urge(self, stream: StreamId) -> None:
        """This one before the others."""
        if stream not in self._waiting and (self._doing is None or self._doing[0] != stream):
            self._waiting.appendleft(stream)

    async def step(self) -> list[Projected]:
        """Fold about a page of events; the rows that are ready now."""
        if not self._waiting and self._doing is None and self._places:
            await self._look()
        ready: list[Projected] = []
        budget = PAGE
        while budget > 0 and (self._doing is not None or self._waiting):
            stream, at, last = self._doing or self._begin(self._waiting.popleft())
            page = await self._store.read(stream, at.version, budget)
            category = self._categories[stream.category]
            if page and page[0].version != at.version + 1:  # retention was faster: the old row is all there is
                self._doing = None
                continue
            at, last = await folded_in_turns(category, page, at), page[-1].at if page else last
            self._doing = (stream, at, last) if len(page) == budget else None
            if self._doing is None and last is not None:
                ready += projected_if_possible(category, stream, at, last)
            budget -= len(page) + STREAM_COST
        return ready

    def _begin(self, stream: StreamId) -> tuple[StreamId, At[Any], None]:
        return stream, At(self._categories[stream.category].fold.initial, 0), None

    async def _look(self) -> None:
        name, place = next(iter(self._places.items()))
        found = await self._rows.outdated(name, self._categories[name].version, place, PAGE // STREAM_COST)
        self._waiting.extend(found.streams)
        if found.last is None:
            del self._places[name]
        else:
            self._places[name] = found.last
