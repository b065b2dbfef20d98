"""grow: ten months of a log, ten million events: what appending, reading and forgetting a month cost then.

Filled by `eventstore.stores.bulk.load`, what `foldstream import` does, a partition a month; the streams of a month lie
between each other. Each run adds a month at the young end and lets the oldest one go.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import uvloop

from benchmarks import append, fold, sample
from benchmarks.case import Bench, Case, Figure, Ratio, percentile
from benchmarks.place import Place, Watch, durable_postgres, figures
from eventstore.archive import Archived
from eventstore.event import START, Event, StreamId
from eventstore.retention import Policy, gc
from eventstore.stores.bulk import load
from eventstore.stores.postgres import PostgresStore

SECONDS, QUICK_SECONDS = 3.0, 0.2
MONTHS, QUICK_MONTHS = 10, 3
STREAMS, QUICK_STREAMS = 10_000, 40
LENGTH = 100
TOGETHER = 20
"""Streams of a month that go on at the same time."""
PROJECTED = 3
"""Months whose states are kept before they are let go: as many as there are runs at most."""
MONTH = timedelta(days=30)

SIZES = """
SELECT sum(pg_relation_size(c.oid)), sum(pg_indexes_size(c.oid)), (SELECT count(*) FROM events)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass
"""


@dataclass(slots=True)
class Log:
    """A log that grows. first, last: the months that are in it."""

    url: str
    streams: int
    first: int = 1
    last: int = 0

    def add_month(self) -> float:
        """Fill one more; seconds."""
        self.last += 1
        with psycopg.connect(self.url, autocommit=True) as connection:
            if self.last > 1:
                connection.execute("SELECT add_events_partition()")
        started = time.perf_counter()
        asyncio.run(load(self.url, _month(self.last, self.streams), seal=True))
        return time.perf_counter() - started

    def drop_month(self) -> float:
        """Let the oldest go, as `foldstream gc` does; seconds."""
        silent = datetime.now(UTC) - (_begin(self.first + 1))
        started = time.perf_counter()
        report = asyncio.run(gc(self.url, Policy(silent / timedelta(days=1), 10_000, 10**12)))
        took = time.perf_counter() - started
        dropped = [part.part for part in report.partitions if part.did == "dropped"]
        if dropped != [self.first]:
            raise RuntimeError(f"gc should have dropped month {self.first}: {report}")
        self.first += 1
        return took


def _begin(month: int) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + month * MONTH


def _month(month: int, streams: int) -> Iterator[Archived]:
    at = _begin(month)
    for first in range(0, streams, TOGETHER):
        names = [StreamId("build", f"{month:02d}-{number:06d}") for number in range(first, first + TOGETHER)]
        for version in range(1, LENGTH + 1):
            for name in names:
                data = sample.JSON[(first + version) % sample.COUNT].encode()
                yield Archived(Event(name, version, START, "build_progress", data, at + timedelta(seconds=version)))


def load_month(log: Log) -> Iterator[Figure]:
    """The rate of the bulk way in, at this size of the log."""
    yield Figure("load a month: rate", log.streams * LENGTH / log.add_month(), "events/s")


def appends(place: Place, log: Log, seconds: float) -> Iterator[Figure]:
    """64 producers on the log as it is."""
    lists = [[event] for event in sample.EVENTS]
    watch, events, latencies = uvloop.run(append.produce_all(log.url, Watch(place), seconds, 64, lists))
    yield from figures("64 producers, full log", watch, events, latencies)


def replays(log: Log, seconds: float) -> Iterator[Figure]:
    """Whole runs of 100 events, from anywhere in the log."""
    latencies = uvloop.run(_replay(log, seconds))
    yield Figure(f"replay of {LENGTH} events: p50", percentile(latencies, 0.5) * 1e3, "ms")
    yield Figure(f"replay of {LENGTH} events: p99", percentile(latencies, 0.99) * 1e3, "ms")


async def _replay(log: Log, seconds: float) -> list[float]:
    chance = random.Random(27)
    latencies: list[float] = []
    async with PostgresStore(log.url) as store:
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until or not latencies:
            month, number = chance.randrange(log.first, log.last + 1), chance.randrange(log.streams)
            page = await store.read(StreamId("build", f"{month:02d}-{number:06d}"))
            if len(page) != LENGTH:
                raise RuntimeError(f"{len(page)} of {LENGTH} events were read")
            latencies.append(time.perf_counter() - started)
    return latencies


def sizes(log: Log) -> Iterator[Figure]:
    """Bytes of an event, in the table and in its indexes."""
    with psycopg.connect(log.url) as connection:
        table, indexes, events = connection.execute(SIZES).fetchone() or (0, 0, 1)
    yield Figure("size: events", float(events), "events")
    yield Figure("size: table", float(table / events), "B/event")
    yield Figure("size: indexes", float(indexes / events), "B/event")


def drops(log: Log) -> Iterator[Figure]:
    """From the decision to the end, all looks included."""
    yield Figure("let a month go", log.drop_month() * 1e3, "ms")


@contextmanager
def opened(quick: bool) -> Iterator[Mapping[str, Case]]:
    """See `Bench.open`."""
    months, streams = (QUICK_MONTHS, QUICK_STREAMS) if quick else (MONTHS, STREAMS)
    seconds = QUICK_SECONDS if quick else SECONDS
    with durable_postgres() as place, place.log() as url:
        log = Log(url, streams)
        for _ in range(months):
            log.add_month()
        uvloop.run(fold.project(url, PROJECTED * streams))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        yield {
            "64 producers, empty log": partial(append.producers, place, seconds, 64, name="64 producers, empty log"),
            "64 producers, full log": partial(appends, place, log, seconds),
            "replay": partial(replays, log, seconds),
            "size": partial(sizes, log),
            "load a month": partial(load_month, log),
            "let a month go": partial(drops, log),
        }


BENCH = Bench(
    name="grow",
    conditions=(
        "fsync, synchronous_commit and full_page_writes on; unix socket; months of 10,000 runs of 100 events of 220 "
        "bytes"
    ),
    open=opened,
    ratios=(Ratio("64 producers, full log: p99", "64 producers, empty log: p99"),),
)
