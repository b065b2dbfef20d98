"""fold: what a state costs to ask for, however long its stream is, and a page of a list, however many runs there are.

Everything is asked of the log by a process that remembers nothing: `States` is made anew for each question. The states
hold a plan with its tasks, as real ones do, and each long stream has gone on a little since its snapshot was made.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import orjson
import psycopg
import uvloop

from benchmarks import sample
from benchmarks.case import Bench, Case, Figure, Ratio, percentile
from benchmarks.place import durable_postgres
from eventstore.archive import Archived
from eventstore.event import START, Event, NewEvent, StreamId
from eventstore.fold import At
from eventstore.projector import projector
from eventstore.snapshots import Query
from eventstore.states import States
from eventstore.stores.bulk import load
from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.snapshots import PostgresSnapshots

SECONDS, QUICK_SECONDS = 2.0, 0.1
LENGTHS, QUICK_LENGTHS = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)
RUNS, QUICK_RUNS = 1_000_000, 1_000
TASKS, QUICK_TASKS = 20_000, 100
MOST_PROJECTS = 200
PAGE = 100
LAG = 20
"""Events of a long stream that came after its snapshot."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = (b'{"previewUrl":"https://x.test/1/"}', b'{"error":"it broke"}')

COUNT_STEPS = """
SELECT id, type, current_status, jsonb_array_length(result_data->'progress') as progress_steps
FROM tasks WHERE result_data->'progress' IS NOT NULL ORDER BY created_at DESC
"""
"""As the source documents print it."""

Ask = Callable[[PostgresStore], Awaitable[Any]]


def asks(name: str, url: str, ask: Ask, seconds: float) -> Iterator[Figure]:
    """One question after the other for ``seconds``."""
    latencies = uvloop.run(_ask(url, ask, seconds))
    yield Figure(f"{name}: p50", percentile(latencies, 0.5) * 1e3, "ms")
    yield Figure(f"{name}: p99", percentile(latencies, 0.99) * 1e3, "ms")


async def _ask(url: str, ask: Ask, seconds: float) -> list[float]:
    latencies: list[float] = []
    async with PostgresStore(url, smallest=1) as store:
        for _ in range(20):  # statements are prepared, pages are in memory
            await ask(store)
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until or not latencies:
            await ask(store)
            latencies.append(time.perf_counter() - started)
    return latencies


def _states(store: PostgresStore) -> States:
    return States(store, PostgresSnapshots(store.connections))


class Long(NamedTuple):
    """A stream of ``length`` events when its snapshot is made. done: of the ``tasks`` of its plan, the first ones."""

    name: str
    tasks: int
    done: int
    length: int

    @property
    def stream(self) -> StreamId:
        return StreamId("build", f"long-{self.tasks}-{self.length}")

    def events(self) -> Iterator[Archived]:
        yield _event(self.stream, 1, "plan_started", b"{}")
        yield _event(self.stream, 2, "plan_generated", _plan(self.tasks))
        for number in range(self.done):
            task = orjson.dumps({"taskId": f"task-{number}"})
            yield _event(self.stream, 3 + 2 * number, "task_started", task)
            yield _event(self.stream, 4 + 2 * number, "task_completed", task)
        for version in range(3 + 2 * self.done, self.length + 1):
            yield _event(self.stream, version, "build_progress", sample.JSON[version % sample.COUNT].encode())

    def must_be_whole(self, at: At[Any]) -> None:
        """The state at the end of the log, not at the snapshot, and with all of its plan."""
        found, expected = (at.version, len(at.state.tasks)), (self.length + LAG, self.tasks)
        if found != expected:
            raise RuntimeError(f"{self.stream}: version and tasks are {found}, not {expected}")


def _longs(quick: bool) -> list[Long]:
    lengths = QUICK_LENGTHS if quick else LENGTHS
    return [
        *(Long(f"status, {length:,} events", tasks=8, done=3, length=length) for length in lengths),
        Long("status, 500 tasks", tasks=500, done=200, length=1_000),
    ]


async def _status(store: PostgresStore, long: Long) -> None:
    long.must_be_whole(await _states(store).at(long.stream))


async def _from_nothing(store: PostgresStore, long: Long) -> None:
    long.must_be_whole(await States(store).at(long.stream))


async def _go_on(url: str, longs: list[Long]) -> None:
    """What comes after the snapshots: nobody projects it."""
    async with PostgresStore(url) as store:
        for long in longs:
            await store.append(long.stream, [NewEvent("build_progress", data) for data in sample.DATA[:LAG]])


async def _page(store: PostgresStore, chance: random.Random, runs: int, *, first: bool, **filters: Any) -> None:
    """A page from the beginning, or from anywhere in the list on."""
    before = None if first else _run(chance.randrange(runs // 2, runs))
    if "project" in filters:
        filters["project"] = f"project-{chance.randrange(_projects(runs))}"
    found = await _states(store).page(Query("build", before=before, limit=PAGE, **filters))
    if not found.runs:
        raise RuntimeError(f"nothing was found for {filters}")


def _count_steps(url: str, tasks: int, seconds: float) -> Iterator[Figure]:
    """As any program would ask it: a connection of its own, with the settings of the server."""
    latencies: list[float] = []
    with psycopg.connect(url, autocommit=True) as connection:
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until or not latencies:
            rows = connection.execute(COUNT_STEPS).fetchall()
            latencies.append(time.perf_counter() - started)
            if len(rows) != tasks:
                raise RuntimeError(f"{len(rows)} of {tasks} tasks were counted")
    yield Figure(f"SQL, the steps of {tasks:,} tasks: p50", percentile(latencies, 0.5) * 1e3, "ms")
    yield Figure(f"SQL, the steps of {tasks:,} tasks: p99", percentile(latencies, 0.99) * 1e3, "ms")


@contextmanager
def opened(quick: bool) -> Iterator[Mapping[str, Case]]:
    """See `Bench.open`."""
    longs, seconds = _longs(quick), QUICK_SECONDS if quick else SECONDS
    runs, tasks = (QUICK_RUNS, QUICK_TASKS) if quick else (RUNS, TASKS)
    with durable_postgres() as place, place.log() as url:
        for long in longs:
            asyncio.run(load(url, long.events()))
        asyncio.run(load(url, _many(runs)))
        asyncio.run(load(url, _tasks(tasks)))
        uvloop.run(project(url, len(longs) + runs + tasks))
        uvloop.run(_go_on(url, longs))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        chance = random.Random(27)
        cases: dict[str, Case] = {}
        for long in longs:
            cases[long.name] = partial(asks, long.name, url, partial(_status, long=long), seconds)
        name = f"without a snapshot, {longs[1].length:,} events"
        cases[name] = partial(asks, name, url, partial(_from_nothing, long=longs[1]), seconds)
        lists: Mapping[str, dict[str, Any]] = {
            "newest": {"first": True},
            "from anywhere": {"first": False},
            "of a project": {"first": True, "project": ""},
            "failed": {"first": False, "status": "failed"},
            "failed, of a project": {"first": True, "status": "failed", "project": ""},
        }
        for what, filters in lists.items():
            name = f"{PAGE} of {runs:,} runs, {what}"
            cases[name] = partial(asks, name, url, partial(_page, chance=chance, runs=runs, **filters), seconds)
        cases["SQL"] = partial(_count_steps, url, tasks, seconds)
        yield cases


def _run(number: int) -> StreamId:
    return StreamId("build", f"{number:08d}")


def _plan(tasks: int) -> bytes:
    """The data of `plan_generated`."""
    listed = [
        {
            "id": f"task-{number}",
            "name": f"Create component {number}",
            "description": "Write src/components/TodoList.tsx and its tests",
            "estimatedDuration": 30,
        }
        for number in range(tasks)
    ]
    return orjson.dumps({"taskCount": tasks, "plan": {"tasks": listed}})


def _projects(runs: int) -> int:
    return min(MOST_PROJECTS, runs // 50)


def _many(runs: int) -> Iterator[Archived]:
    """Runs of three events; one in eleven has failed."""
    plan = _plan(5)
    for number in range(runs):
        stream = _run(number)
        request = b'{"prompt":"a todo app with dark mode","projectId":"project-%d"}' % (number * 7919 % _projects(runs))
        at = BEGIN + timedelta(seconds=number)
        yield _event(stream, 1, "build_queued", request, at)
        yield _event(stream, 2, "plan_generated", plan, at)
        failed = number % 11 == 0
        yield _event(stream, 3, "build_failed" if failed else "deploy_completed", ENDS[failed], at)


def _tasks(tasks: int) -> Iterator[Archived]:
    for number in range(tasks):
        stream = StreamId("task", f"{number:06d}")
        yield _event(stream, 1, "task_created", b'{"type":"shopify_order"}')
        for version in range(2, 10):
            yield _event(stream, version, "task_progress", b'{"message":"Adding product to cart"}')
        yield _event(stream, 10, "task_completed", b'{"message":"Order placed successfully"}')


def _event(stream: StreamId, version: int, type_: str, data: bytes, at: datetime = BEGIN) -> Archived:
    return Archived(Event(stream, version, START, type_, data, at))


async def project(url: str, streams: int) -> None:
    """Let the projector do what it does beside every server, until so many streams have their snapshots."""
    async with PostgresStore(url, patience=60) as store:
        connections = store.connections
        follower = projector(store, PostgresSnapshots(connections), PostgresCursors(connections), owner="benchmark")
        running = asyncio.create_task(follower.run())
        started = time.perf_counter()
        try:
            while True:
                # A look counts all streams: seldom, when they are many.
                await asyncio.sleep(max(0.1, (time.perf_counter() - started) / 10))
                [(snapshots,)] = await connections.fetch("SELECT count(*) FROM states")
                if snapshots < streams:
                    continue
                [(behind,)] = await connections.fetch(
                    "SELECT count(*) FROM states JOIN streams USING (sid) WHERE states.version < streams.version"
                )
                if not behind:
                    return
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


BENCH = Bench(
    name="fold",
    conditions=(
        "fsync, synchronous_commit and full_page_writes on; unix socket; events of 220 bytes; long streams with 8 "
        "tasks and 20 events after their snapshot, runs of three events with 5 tasks; every question by a process "
        "without a memory of its own"
    ),
    open=opened,
    ratios=(
        Ratio("status, 10,000 events: p50", "status, 1,000 events: p50"),
        Ratio("status, 1,000,000 events: p50", "status, 1,000 events: p50"),
        Ratio("status, 500 tasks: p50", "status, 1,000 events: p50"),
        Ratio("without a snapshot, 10,000 events: p50", "status, 10,000 events: p50"),
    ),
)
