"""append: events a second into Postgres, each one safe on disk before its producer goes on.

Ours is `PostgresStore.append` in this process; the others write the old documents' table: pgbench (a program in C that
does nothing else), psycopg with a connection for each producer, COPY, and the `eventsourcing` library's recorder where
it is installed (`make bench` installs it). The bulk way in, `load`, stands beside COPY.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import psycopg
import uvloop

from benchmarks import one_by_one, pgbench, recorder, sample
from benchmarks.case import Bench, Case, Figure, Ratio
from benchmarks.place import Place, Watch, durable_postgres, figures
from eventstore.archive import Archived
from eventstore.event import START, Event, NewEvent
from eventstore.stores.bulk import load
from eventstore.stores.postgres import PostgresStore

SECONDS, QUICK_SECONDS = 3.0, 0.2
BULK = 1000
IMPORTED, QUICK_IMPORTED = 50_000, 5_000
IMPORTED_STREAMS = 50
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def producers(place: Place, seconds: float, count: int, *, size: int = 1, name: str = "") -> Iterator[Figure]:
    """``count`` producers who wait for each append of ``size`` events before they send the next."""
    lists = [sample.EVENTS[at : at + size] for at in range(0, sample.COUNT - size + 1, size)]
    with place.log() as url:
        watch, events, latencies = uvloop.run(produce_all(url, Watch(place), seconds, count, lists))
        with psycopg.connect(url) as connection:
            [recorded] = connection.execute("SELECT count(*) FROM events").fetchone() or [0]
    expected = len(sample.STREAMS) + events
    if recorded != expected:
        raise RuntimeError(f"{expected} events were acknowledged and {recorded} are recorded")
    yield from figures(name or f"{count} producer{'s' if count > 1 else ''}", watch, events, latencies)


async def produce_all(
    url: str, watch: Watch, seconds: float, count: int, lists: Sequence[Sequence[NewEvent]]
) -> tuple[Watch, int, list[float]]:
    """(what was used, how many events were recorded, how long each append took in seconds)."""
    latencies: list[float] = []
    chance = random.Random(count)
    until = 0.0

    async def produce(store: PostgresStore, number: int) -> int:
        events = 0
        while (started := time.perf_counter()) < until:
            batch = lists[number % len(lists)]
            await store.append(chance.choice(sample.STREAMS), batch)
            latencies.append(time.perf_counter() - started)
            events += len(batch)
            number += 1
        return events

    async with PostgresStore(url, patience=30) as store:
        await asyncio.gather(*(store.append(stream, sample.EVENTS[:1]) for stream in sample.STREAMS))
        with watch:
            until = time.perf_counter() + seconds
            events = sum(await asyncio.gather(*(produce(store, number * 7) for number in range(count))))
    return watch, events, latencies


def imports(place: Place, count: int) -> Iterator[Figure]:
    """What `foldstream import` does with ``count`` events, parsed beforehand: checks, hashes, COPY, one commit."""
    events = [_archived(number) for number in range(count)]
    with place.log() as url:
        with Watch(place) as watch:
            loaded = asyncio.run(load(url, events))
        with psycopg.connect(url) as connection:
            [recorded] = connection.execute("SELECT count(*) FROM events").fetchone() or [0]
    if not loaded.events == recorded == count:
        raise RuntimeError(f"of {count} events {loaded.events} were said to be loaded and {recorded} are recorded")
    yield Figure("import: rate", count / watch.seconds, "events/s")
    yield Figure("import: our CPU", watch.our_cpu / count * 1e6, "us/event")
    yield Figure("import: Postgres CPU", watch.postgres_cpu / count * 1e6, "us/event")


def _archived(number: int) -> Archived:
    version, stream = divmod(number, IMPORTED_STREAMS)
    of = number % sample.COUNT
    data = sample.JSON[of].encode()
    return Archived(Event(sample.STREAMS[stream], version + 1, START, sample.EVENTS[of].type, data, BEGIN))


@contextmanager
def opened(quick: bool) -> Iterator[Mapping[str, Case]]:
    """See `Bench.open`."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with durable_postgres() as place:
        # The pairs that are compared stand side by side.
        yield {
            "1 producer": partial(producers, place, seconds, 1),
            "pgbench, 1 client": partial(pgbench.inserts, place, seconds, 1),
            "64 producers": partial(producers, place, seconds, 64),
            "pgbench, 32 clients": partial(pgbench.inserts, place, seconds, 32),
            "500 producers": partial(producers, place, seconds, 500),
            "psycopg, 32 connections": partial(one_by_one.inserts, place, seconds, 32),
            "pgbench, 8 clients": partial(pgbench.inserts, place, seconds, 8),
            "eventsourcing recorder": partial(recorder.inserts, place, seconds),
            "bulk": partial(producers, place, seconds, 1, size=BULK, name="bulk, lists of 1000"),
            "COPY": partial(one_by_one.copies, place, seconds, BULK),
            "import": partial(imports, place, QUICK_IMPORTED if quick else IMPORTED),
        }


BENCH = Bench(
    name="append",
    conditions=(
        "fsync, synchronous_commit and full_page_writes on; unix socket; 220-byte events over 1,000 streams; ours in "
        "this process, the others into the old documents' table (SERIAL, JSONB, two indexes)"
    ),
    open=opened,
    ratios=(
        Ratio("64 producers: rate", "pgbench, 32 clients: rate"),
        Ratio("500 producers: rate", "pgbench, 32 clients: rate"),
        Ratio("1 producer: p50", "pgbench, 1 client: p50"),
        Ratio("64 producers: rate", "psycopg, 32 connections: rate"),
        Ratio("64 producers: rate", "eventsourcing recorder, 8 threads: rate"),
        Ratio("bulk, lists of 1000: rate", "COPY, 1000 rows: rate"),
        Ratio("import: rate", "COPY, 1000 rows: rate"),
    ),
)
