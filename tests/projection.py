"""What tests of followers and snapshots share: what stands beside a store, and waiting until it is so far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
import psycopg

from eventstore import BY_NAME, At, Category, Event, StreamId, snapshots
from eventstore.category import Labels
from eventstore.follower import Cursors, Follower, Rhythm
from eventstore.projector import projector
from eventstore.snapshots import Projected, Snapshot
from eventstore.states import folded
from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.memory import MemoryStore
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.projected import MemoryCursors, MemorySnapshots
from eventstore.stores.snapshots import PostgresSnapshots

FAST = Rhythm(lease=1.0, renew=0.02, gather=0.001)
PATIENCE = 15.0

AnyStore = MemoryStore | PostgresStore
AnySnapshots = MemorySnapshots | PostgresSnapshots


def snapshots_of(store: AnyStore) -> AnySnapshots:
    """The snapshots beside ``store``."""
    return MemorySnapshots(store) if isinstance(store, MemoryStore) else PostgresSnapshots(store.connections)


def cursors_of(store: AnyStore) -> Cursors:
    """The followers' cursors beside ``store``."""
    return MemoryCursors(store) if isinstance(store, MemoryStore) else PostgresCursors(store.connections)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = PATIENCE) -> Any:
    """The first answer of ``condition`` that is true. Bounded."""
    with anyio.fail_after(seconds):
        while not (found := await condition()):
            await anyio.sleep(0.005)
    return found


async def until_projected(snapshots: AnySnapshots, stream: StreamId, version: int, fold: int = 1) -> Snapshot:
    """The snapshot of ``stream`` as soon as it has come to ``version``."""

    async def is_there() -> Snapshot | None:
        stored = (await snapshots.stored([stream])).get(stream)
        there = stored is not None and stored.snapshot.version >= version and stored.snapshot.fold == fold
        return stored.snapshot if stored is not None and there else None

    found: Snapshot = await until(is_there)
    return found


async def until_in_view(database: str, build: str, version: int) -> None:
    """Until the view build_progress shows ``version`` of a build, whoever projects it."""
    sql = "SELECT FROM states p JOIN streams s USING (sid) WHERE s.category = 'build' AND s.id = %s AND p.version >= %s"
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:

        async def is_there() -> bool:
            return await (await connection.execute(sql, (build, version))).fetchone() is not None

        await until(is_there)


def refolding(name: str, number: int, change: Callable[[Any, Event], Any] | None = None) -> dict[str, Category[Any]]:
    """The categories, with another number for the fold of one of them, and perhaps another fold."""
    category = BY_NAME[name]
    fold = category.fold if change is None else replace(category.fold, evolve=change)
    return {**BY_NAME, name: replace(category, version=number, fold=fold)}


def projected(events: Sequence[Event], *, fold: int = 1, labels: Labels | None = None) -> Projected:
    """The row of a stream of which these are the events."""
    category = BY_NAME[events[0].stream.category]
    at: At[Any] = folded(category, events, At(category.fold.initial, 0))
    row = snapshots.projected(category, events[0].stream, at, events[-1].at)
    return row._replace(snapshot=row.snapshot._replace(fold=fold), labels=labels or row.labels)


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[Follower]:
    """Runs beside the test. A task of its own: a fixture is left in another task than it was entered in."""
    running = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=5)
        assert running.cancelled(), "a follower runs until it is cancelled, and no longer"


@asynccontextmanager
async def projecting(store: AnyStore, snapshots: AnySnapshots, **options: Any) -> AsyncIterator[Follower]:
    """A projector runs beside the test."""
    options = {"rhythm": FAST, "every": 0.05, **options}
    async with following(projector(store, snapshots, cursors_of(store), uuid4().hex, **options)) as follower:
        yield follower


class Clock:
    """Stands still unless told to go on."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)
