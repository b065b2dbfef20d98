"""restate: rows of the table states, written or thrown away beside the projector (by gc and verify --repair)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from eventstore.category import Category
from eventstore.event import StreamId
from eventstore.fold import At
from eventstore.frozen import freeze
from eventstore.snapshots import Projected, Snapshot
from eventstore.stores.connections import Connection, fetch
from eventstore.stores.snapshots import WRITE

FORGET = "DELETE FROM states WHERE sid = %s"


def row(stream: StreamId, category: Category[Any], at: At[Any], updated_at: datetime) -> Projected:
    """The row of a stream. updated_at: the time of its last event. Raises ValueError for a state that cannot be written
    (see `freeze`)."""
    snapshot = Snapshot(at.version, category.version, freeze(category, at))
    return Projected(stream, snapshot, category.labels(at.state), updated_at)


async def keep(connection: Connection, rows: Sequence[Projected]) -> None:
    """Store these, each unless what is stored knows more."""
    columns = (
        [one.stream.category for one in rows],
        [one.stream.id for one in rows],
        [one.snapshot.version for one in rows],
        [one.snapshot.fold for one in rows],
        [one.labels.status for one in rows],
        [one.labels.project for one in rows],
        [one.snapshot.data.decode() for one in rows],
        [one.updated_at for one in rows],
    )
    await fetch(connection, WRITE, columns)


async def forget(connection: Connection, sid: int) -> None:
    """Throw the state of a stream away."""
    await connection.execute(FORGET, (sid,))
