"""read: a stream from its beginning, as Server-Sent Events that are ready to be sent.

Ours is `PostgresStore.render`, frames that the server writes, and `PostgresStore.read` with `wire.sse`; beside them the
old documents' query with each event decoded to a dict and encoded again, by the standard library and by orjson. In both
tables other streams lie between the events.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import psycopg
import uvloop
from psycopg import AsyncConnection

from benchmarks import sample
from benchmarks.case import Bench, Case, Figure, Ratio, percentile
from benchmarks.one_by_one import COPY
from benchmarks.place import durable_postgres
from benchmarks.replay import ORJSON, STANDARD, Chunks, Codec, decoded, objects, rendered
from eventstore.event import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore

SECONDS, QUICK_SECONDS = 2.0, 0.1
LENGTHS, QUICK_LENGTHS = (10_000, 100_000), (1_000, 3_000)
TOGETHER = 10
"""Events of a stream that lie side by side; then come as many of another one."""

Open = Callable[[], AbstractAsyncContextManager[Callable[[], Chunks]]]


def replays(name: str, open_: Open, length: int, seconds: float) -> Iterator[Figure]:
    """Whole replays, one after the other, for ``seconds``."""
    rates, firsts = uvloop.run(_replay(open_, length, seconds))
    yield Figure(f"{name}: rate", percentile(rates, 0.5), "events/s")
    yield Figure(f"{name}: first page", percentile(firsts, 0.5) * 1e3, "ms")


async def _replay(open_: Open, length: int, seconds: float) -> tuple[list[float], list[float]]:
    rates: list[float] = []
    firsts: list[float] = []
    async with open_() as chunks:
        until = time.perf_counter() + seconds
        while not rates or time.perf_counter() < until:
            started = time.perf_counter()
            first = events = 0.0
            async for count, _ in chunks():
                first = first or time.perf_counter() - started
                events += count
            if events != length:
                raise RuntimeError(f"{events:.0f} of {length} events were read")
            rates.append(length / (time.perf_counter() - started))
            firsts.append(first)
    return rates, firsts


@asynccontextmanager
async def ours(url: str, stream: StreamId, way: Callable[[PostgresStore, StreamId], Chunks]) -> Any:
    """`PostgresStore`, one way or the other."""
    async with PostgresStore(url) as store:
        yield partial(way, store, stream)


@asynccontextmanager
async def usual(url: str, stream: StreamId, codec: Codec) -> Any:
    """psycopg, a dict an event, JSON again."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        yield partial(decoded, connection, stream, codec)


def memory(url: str, stream: StreamId, length: int) -> Iterator[Figure]:
    """The most that a fresh process holds (RSS) when it replays everything."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.replay", url, str(stream)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    told = json.loads(done.stdout)
    if told["events"] != length:
        raise RuntimeError(f"{told['events']} of {length} events were read")
    yield Figure(f"memory, {length:,} events: peak", told["peak"] / 2**20, "MiB")


@contextmanager
def opened(quick: bool) -> Iterator[Mapping[str, Case]]:
    """See `Bench.open`."""
    lengths, seconds = (QUICK_LENGTHS, QUICK_SECONDS) if quick else (LENGTHS, SECONDS)
    with durable_postgres() as place, place.log() as log, place.old_table() as table:
        cases: dict[str, Case] = {}
        for length in lengths:
            stream = StreamId("build", f"long-{length}")
            asyncio.run(_fill_log(log, stream, length))
            _fill_table(table, stream, length)
            ways: Sequence[tuple[str, Open]] = (
                ("rendered", partial(ours, log, stream, rendered)),
                ("events, then SSE", partial(ours, log, stream, objects)),
                ("dict, json", partial(usual, table, stream, STANDARD)),
                ("dict, orjson", partial(usual, table, stream, ORJSON)),
            )
            for way, open_ in ways:
                name = f"{way}, {length:,} events"
                cases[name] = partial(replays, name, open_, length, seconds)
            cases[f"memory, {length:,} events"] = partial(memory, log, stream, length)
        for url in (log, table):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")
        yield cases


async def _fill_log(url: str, stream: StreamId, length: int) -> None:
    async with PostgresStore(url, patience=60) as store:
        for at in range(0, length, 50 * TOGETHER):
            await asyncio.gather(
                *(
                    store.append(one, _events(first))
                    for first in range(at, min(at + 50 * TOGETHER, length), TOGETHER)
                    for one in (stream, sample.STREAMS[first // TOGETHER % len(sample.STREAMS)])
                )
            )


def _events(first: int) -> list[NewEvent]:
    start = first % sample.COUNT
    return sample.EVENTS[start : start + TOGETHER]


def _fill_table(url: str, stream: StreamId, length: int) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for first in range(0, length, TOGETHER):
            for id_ in (stream.id, sample.STREAMS[first // TOGETHER % len(sample.STREAMS)].id):
                for number in range(first, first + TOGETHER):
                    event = sample.EVENTS[number % sample.COUNT]
                    copy.write_row((id_, event.type, sample.JSON[number % sample.COUNT]))


def _ratios(lengths: Sequence[int]) -> Iterator[Ratio]:
    for length in lengths:
        for what in ("rate", "first page"):
            for way in ("events, then SSE", "dict, json", "dict, orjson"):
                yield Ratio(f"rendered, {length:,} events: {what}", f"{way}, {length:,} events: {what}")
    yield Ratio(f"memory, {lengths[1]:,} events: peak", f"memory, {lengths[0]:,} events: peak")


BENCH = Bench(
    name="read",
    conditions="pages of 1,000; 220-byte events, other streams in between; unix socket; all of it in memory already",
    open=opened,
    ratios=(*_ratios(LENGTHS), *_ratios(QUICK_LENGTHS)),
)
