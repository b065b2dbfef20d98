"""Snapshots: states that somebody folded and kept, so that nobody folds a stream from nothing again. Contracts.

Theory. A snapshot is a cache of the log with a version on it; a reader folds what came after it and so is exact,
however old the snapshot is. It carries the number of the fold that made it, too: of another fold it is no cache of
anything. Only where events have left the log (retention) a snapshot is the last that is known, and is used as it is.

`Snapshots` is what readers need of them (`eventstore.states`), `Projection` what their writer does
(`eventstore.projector`). Implementations in `stores/`: snapshots (Postgres, table ``states``), projected (memory).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from eventstore.category import Category, Labels
from eventstore.event import Event, StreamId
from eventstore.fold import At
from eventstore.frozen import freeze
from eventstore.store import PAGE

LAST = 2**31 - 1
"""No version comes so far."""

NEAR = 100
"""Versions from which on it is cheaper to take a snapshot than to fold the events on what one has already."""


class Snapshot(NamedTuple):
    """A kept state. fold: `Category.version` of the fold that made it. data: as `eventstore.frozen` made it."""

    version: int
    fold: int
    data: bytes


class Reading(NamedTuple):
    """Where to fold on from, and what to fold.

    snapshot  the state to begin with; None: there is none of use.
    events    those behind the snapshot, or else behind ``after``: a page at most.
    floor     events up to this version have left the log. head: the stream's last version; 0: no such stream.
    """

    snapshot: Snapshot | None
    events: list[Event]
    floor: int
    head: int


@dataclass(frozen=True, slots=True)
class Query:
    """Which streams of a category to list, newest first. None: of all.

    since, until  when they were born: from ``since`` on, before ``until``. before: older than this stream.
    """

    category: str
    status: str | None = None
    project: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: StreamId | None = None
    limit: int = 50

    @property
    def is_filtered(self) -> bool:
        """Somebody has to look at the states to answer it."""
        return not (self.status is None and self.project is None and self.since is None and self.until is None)


class Line(NamedTuple):
    """A stream of a list. head: its last version. snapshot: the newest there is, of whichever fold."""

    stream: StreamId
    head: int
    snapshot: Snapshot | None


class Snapshots(Protocol):
    """What readers need."""

    async def latest(
        self, stream: StreamId, fold: int, after: int = 0, until: int = LAST, limit: int = PAGE
    ) -> Reading:
        """Where to fold on from to ``until``, for somebody who has the state at ``after`` (0: has nothing).

        A snapshot of this ``fold`` (of any, where events have left the log) comes only if it is worth it: NEAR versions
        beyond ``after``, unless that is 0.
        """
        ...

    async def page(self, query: Query) -> list[Line]:
        """The first ``query.limit`` streams. Without a filter: of all that exist at this moment; with one: by the
        labels of their snapshots, which are some milliseconds old."""
        ...


class Stored(NamedTuple):
    """A snapshot, and the version up to which the stream's events have left the log."""

    snapshot: Snapshot
    floor: int


class Projected(NamedTuple):
    """A snapshot to be kept. updated_at: when the last event that is folded in happened."""

    stream: StreamId
    snapshot: Snapshot
    labels: Labels
    updated_at: datetime


def projected(category: Category[Any], stream: StreamId, at: At[Any], updated_at: datetime) -> Projected:
    """What to keep of a stream. Raises ValueError for a state that cannot be written (see `freeze`)."""
    snapshot = Snapshot(at.version, category.version, freeze(category, at))
    return Projected(stream, snapshot, category.labels(at.state), updated_at)


class Outdated(NamedTuple):
    """Streams whose snapshot another fold made. last: where to look on; None: that was all."""

    streams: list[StreamId]
    last: tuple[int, int] | None


class Projection(Protocol):
    """What the writer of the snapshots does."""

    async def stored(self, streams: Iterable[StreamId]) -> Mapping[StreamId, Stored]:
        """The snapshots that there are, of whichever fold."""
        ...

    async def write(self, rows: Sequence[Projected], joined: Any) -> None:
        """Keep them, in the transaction of ``joined`` (see `Also`); one that is neither of a higher fold nor of a
        higher version than what is kept changes nothing. Raises Invalid for what the database cannot hold."""
        ...

    async def outdated(self, category: str, fold: int, after: tuple[int, int], limit: int) -> Outdated:
        """Snapshots made by a fold below ``fold``, ``limit`` at most, and only of streams that have all their events.
        ``after``: (0, 0) to begin with, then `Outdated.last`."""
        ...
