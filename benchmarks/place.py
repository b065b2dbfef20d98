"""place: an embedded Postgres with all on that lets a commit survive a crash, and a fresh database for each case.

Its folder must be on a disk: on a file system in memory fsync costs nothing, and so do the figures.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from benchmarks import machine
from benchmarks.case import Figure, percentile
from eventstore.errors import CannotStart
from eventstore.migrate import migrate
from foldstream.services import postgres

IN_MEMORY = {"tmpfs", "ramfs"}
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")

OLD_TABLE = """
CREATE TABLE project_build_events (
    id         SERIAL PRIMARY KEY,
    build_id   VARCHAR(26) NOT NULL,
    event_type VARCHAR(50) NOT NULL,
    event_data JSONB NOT NULL,
    created_at TIMESTAMP DEFAULT NOW()
);
CREATE INDEX idx_build_events_build_id ON project_build_events (build_id);
CREATE INDEX idx_build_events_composite ON project_build_events (build_id, id);
"""
"""The table of the source documents, whose readers miss events that are numbered early and committed late."""


@dataclass(frozen=True, slots=True)
class Place:
    """A running Postgres. url: of its superuser. template: the name of a database with an empty log in it."""

    url: str
    template: str
    postmaster: int

    @contextmanager
    def log(self) -> Iterator[str]:
        """The URL of a fresh database with an empty log."""
        with _fresh(self.url, self.template) as url:
            yield url

    @contextmanager
    def old_table(self) -> Iterator[str]:
        """The URL of a fresh database with the old documents' table."""
        with _fresh(self.url) as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(OLD_TABLE)
            yield url


@contextmanager
def disk_folder() -> Iterator[Path]:
    """A folder for the time of a benchmark, on a disk."""
    for parent in (Path(tempfile.gettempdir()), Path.cwd()):
        if machine.file_system(parent) not in IN_MEMORY:
            with tempfile.TemporaryDirectory(prefix="foldstream-bench-", dir=parent) as folder:
                yield Path(folder)
            return
    raise CannotStart("there is no disk to measure on", fix="Set TMPDIR to a folder on a disk.")


@contextmanager
def durable_postgres() -> Iterator[Place]:
    """Run Postgres for the time of a benchmark. Raises CannotStart if a commit there would not survive a crash."""
    with disk_folder() as folder, postgres(folder, durable=True) as url:
        with psycopg.connect(url) as connection:
            for setting in DURABLE:
                [value] = connection.execute(f"SHOW {setting}").fetchone() or [None]
                if value != "on":
                    raise CannotStart(f"{setting} is {value}", fix="Measure with durable=True.")
            postmaster = machine.parent(connection.info.backend_pid)
        with _fresh(url) as template:
            asyncio.run(migrate(template))
            yield Place(url, urlsplit(template).path.lstrip("/"), postmaster)


@contextmanager
def _fresh(server: str, template: str = "template1") -> Iterator[str]:
    name = f"bench_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        admin.execute("CHECKPOINT")  # what came before is paid by what came before
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class Watch:
    """A context that measures its duration, our CPU and Postgres's, in seconds."""

    def __init__(self, place: Place) -> None:
        self._postmaster = place.postmaster
        self.seconds = self.our_cpu = self.postgres_cpu = 0.0

    def __enter__(self) -> Watch:
        self.postgres_cpu = -machine.cpu_seconds(self._postmaster)
        self.our_cpu = -time.process_time()
        self.seconds = -time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds += time.perf_counter()
        self.our_cpu += time.process_time()
        self.postgres_cpu += machine.cpu_seconds(self._postmaster)


def figures(name: str, watch: Watch, events: int, latencies: Sequence[float], *, ours: bool = True) -> Iterator[Figure]:
    """Rate, latency (given in seconds) and CPU. ours: the work was done in this process, so its CPU means something."""
    yield Figure(f"{name}: rate", events / watch.seconds, "events/s")
    yield Figure(f"{name}: p50", percentile(latencies, 0.5) * 1e3, "ms")
    yield Figure(f"{name}: p99", percentile(latencies, 0.99) * 1e3, "ms")
    if ours:
        yield Figure(f"{name}: our CPU", watch.our_cpu / events * 1e6, "us/event")
    yield Figure(f"{name}: Postgres CPU", watch.postgres_cpu / events * 1e6, "us/event")
