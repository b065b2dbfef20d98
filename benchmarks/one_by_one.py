"""one_by_one: what a program does that talks to Postgres directly: an INSERT and a commit an event, or COPY."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import uvloop
from psycopg import AsyncConnection

from benchmarks import sample
from benchmarks.case import Figure
from benchmarks.place import Place, Watch, figures

INSERT = "INSERT INTO project_build_events (build_id, event_type, event_data) VALUES (%s, %s, %s) RETURNING id"
COPY = "COPY project_build_events (build_id, event_type, event_data) FROM STDIN"


def inserts(place: Place, seconds: float, connections: int) -> Iterator[Figure]:
    """``connections`` producers in this process, each with a connection of its own; prepared statements."""
    with place.old_table() as url:
        watch, latencies = uvloop.run(_insert(url, Watch(place), seconds, connections))
    yield from figures(f"psycopg, {connections} connections", watch, len(latencies), latencies)


async def _insert(url: str, watch: Watch, seconds: float, count: int) -> tuple[Watch, list[float]]:
    connections = [await AsyncConnection.connect(url, autocommit=True) for _ in range(count)]
    latencies: list[float] = []
    chance = random.Random(count)
    until = 0.0

    async def produce(connection: AsyncConnection, number: int) -> None:
        while (started := time.perf_counter()) < until:
            data = sample.JSON[number % sample.COUNT]
            stream = chance.choice(sample.STREAMS)
            cursor = await connection.execute(INSERT, (str(stream), "task_started", data), prepare=True)
            await cursor.fetchone()
            latencies.append(time.perf_counter() - started)
            number += 1

    try:
        await asyncio.gather(
            *(one.execute(INSERT, ("warm", "task_started", "{}"), prepare=True) for one in connections)
        )
        with watch:
            until = time.perf_counter() + seconds
            await asyncio.gather(*(produce(one, number * 7) for number, one in enumerate(connections)))
    finally:
        for connection in connections:
            await connection.close()
    return watch, latencies


def copies(place: Place, seconds: float, size: int) -> Iterator[Figure]:
    """One connection that COPYs ``size`` rows a transaction; the JSON is made beforehand."""
    with place.old_table() as url:
        watch, latencies = uvloop.run(_copy(url, Watch(place), seconds, size))
    yield from figures(f"COPY, {size} rows", watch, size * len(latencies), latencies)


async def _copy(url: str, watch: Watch, seconds: float, size: int) -> tuple[Watch, list[float]]:
    latencies: list[float] = []
    rows = [(f"build-{number % 1000:05d}", "task_started", sample.JSON[number]) for number in range(size)]
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        with watch:
            until = time.perf_counter() + seconds
            while (started := time.perf_counter()) < until:
                async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                    for row in rows:
                        await copy.write_row(row)
                latencies.append(time.perf_counter() - started)
    return watch, latencies
