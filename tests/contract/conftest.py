"""The stores that the contract is tested on. `case` runs a test once for each of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from eventstore import Event, StreamId
from eventstore.stores.memory import MemoryStore
from eventstore.stores.postgres import PostgresStore

AnyStore = MemoryStore | PostgresStore


@dataclass
class Case:
    """A fresh store, what it announced, and a second one on the same log (as another process would have)."""

    store: AnyStore
    other: AnyStore
    announced: list[Event]
    listeners: list[Callable[[list[Event]], None]] = field(default_factory=list)

    def announced_of(self, stream: StreamId) -> list[int]:
        return [event.version for event in self.announced if event.stream == stream]


@pytest.fixture(params=["memory", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dsn(request: pytest.FixtureRequest, kind: str) -> str | None:
    return str(request.getfixturevalue("database")) if kind == "postgres" else None


@pytest.fixture
async def case(dsn: str | None) -> AsyncIterator[Case]:
    chance = random.Random(27)
    announced: list[Event] = []
    listeners: list[Callable[[list[Event]], None]] = []

    async def delay() -> None:
        """A round trip of no certain length, so that whatever may overtake does."""
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)

    def announce(events: object) -> None:
        news = list(events)  # type: ignore[call-overload]
        announced.extend(news)
        for listener in listeners:
            listener(news)

    if dsn is None:
        memory = MemoryStore(announce=announce, delay=delay)
        yield Case(memory, memory, announced, listeners)
    else:
        async with PostgresStore(dsn, announce=announce) as store, PostgresStore(dsn) as other:
            yield Case(store, other, announced, listeners)
