"""recorder: the Python library `eventsourcing` and its Postgres recorder, where `make bench` has installed it."""

from __future__ import annotations

import importlib
import importlib.util
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from benchmarks import sample
from benchmarks.case import Absent, Figure
from benchmarks.place import Place, Watch, figures

THREADS = 8
ORIGINATORS = 50


def inserts(place: Place, seconds: float) -> Iterator[Figure]:
    """Threads that record one event a call (the library is synchronous); each has streams of its own: no conflicts."""
    if importlib.util.find_spec("eventsourcing") is None:
        raise Absent("not installed: make bench-append installs it")
    library: Any = importlib.import_module("eventsourcing.postgres")
    stored_event: Any = importlib.import_module("eventsourcing.persistence").StoredEvent
    with place.log() as url:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        datastore = library.PostgresDatastore(
            parts.path.lstrip("/"), query["host"][0], query["port"][0], parts.username, "", pool_size=THREADS
        )
        try:
            recorder = library.PostgresApplicationRecorder(datastore, events_table_name="stored_events")
            recorder.create_table()
            watch, latencies = _record(recorder, stored_event, Watch(place), seconds)
        finally:
            datastore.close()
    yield from figures(f"eventsourcing recorder, {THREADS} threads", watch, len(latencies), latencies)


def _record(recorder: Any, stored_event: Any, watch: Watch, seconds: float) -> tuple[Watch, list[float]]:
    latencies: list[float] = []

    def produce(seed: int) -> None:
        chance = random.Random(seed)
        versions = {UUID(int=chance.getrandbits(128)): 0 for _ in range(ORIGINATORS)}
        streams = list(versions)
        while (started := time.perf_counter()) < until:
            stream = chance.choice(streams)
            versions[stream] += 1
            data = sample.JSON[versions[stream] % sample.COUNT].encode()
            recorder.insert_events([stored_event(stream, versions[stream], "task_started", data)])
            latencies.append(time.perf_counter() - started)

    with watch, ThreadPoolExecutor(THREADS) as threads:
        until = time.perf_counter() + seconds
        list(threads.map(produce, range(THREADS)))  # raises what a thread met
    return watch, latencies
