"""database: the one that a command works on, without a server between, and a bar while it takes its time.

DATABASE_URL, or the embedded Postgres of the data folder: the one that `foldstream dev` runs at this moment, else one
that is started for as long as the command takes. Commands that run at the same time share one: each holds a lock with
the others, and who started the server stops it when he is alone.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from eventstore.errors import CannotStart, NotFound
from eventstore.event import StreamId
from eventstore.stores import whole
from eventstore.stores.connections import Connection
from foldstream.commands.dev import with_flags
from foldstream.commands.named import LAST
from foldstream.commands.talk import is_terminal
from foldstream.logs import set_up_logs
from foldstream.services import local_services, run_postgres
from foldstream.services.process import writing
from foldstream.settings import Settings, read

PATIENCE = 20.0
"""Seconds to wait for another command that is just starting, or stopping, the server."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where the database is."""
    parser.add_argument("--data-dir", type=Path, help="of the embedded database, where DATABASE_URL is empty")


def settings_of(args: argparse.Namespace) -> Settings:
    """The environment's, with what the command line says. Raises CannotStart."""
    set_up_logs()
    return with_flags(read(os.environ, auth=False), args)


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """Its URL. Raises CannotStart."""
    if settings.database_url:
        yield settings.database_url
        return
    if not any(settings.data_dir.glob("pg*")):
        raise CannotStart(
            f"there is no database in {settings.data_dir}",
            fix="Set DATABASE_URL, or --data-dir to the folder of `foldstream dev`; `foldstream migrate` makes one.",
        )
    with writing(settings.data_dir):
        gate = open(settings.data_dir / "commands.lock", "a")  # noqa: SIM115  # its block begins in the next line
    with gate, ExitStack() as stack:
        fcntl.flock(gate, fcntl.LOCK_SH)
        yield run_postgres.running_url(settings.data_dir) or _started(settings.data_dir, gate, stack)


def _started(data_dir: Path, gate: TextIO, stack: ExitStack) -> str:
    """The URL of a server of our own; or of another command's that was faster, which then waits for us at its end."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            services = stack.enter_context(local_services(data_dir, redis_url="unix:///unused"))
        except CannotStart as error:
            if "another foldstream" not in error.detail or time.monotonic() > until:
                raise
            found = run_postgres.running_url(data_dir)
            if found:
                return found
            continue
        stack.callback(fcntl.flock, gate, fcntl.LOCK_EX)
        return services.database_url


async def streams(connection: Connection, runs: Sequence[str]) -> list[StreamId]:
    """The streams that are named, each once. Raises NotFound when there is none for @last."""
    found = []
    for run in runs:
        stream = await whole.newest(connection, "build") if run == LAST else StreamId.parse(run)
        if stream is None:
            raise NotFound("there is no run yet", fix="Start one: foldstream run -- sleep 5")
        found.append(stream)
    return list(dict.fromkeys(found))


def count_events(url: str) -> int | None:
    """How many events there are, by the counters of their streams: for a bar. None: nobody can say; what is about to
    be done will say why."""
    try:
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT coalesce(sum(version - floor), 0)::bigint FROM streams").fetchone()
    except psycopg.Error:
        return None
    return int(row[0]) if row else None


@contextmanager
def bar(words: str, total: Callable[[], int | None]) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; gives what to call with how far it is. total: asked for only then."""
    if not is_terminal(2):
        yield lambda done: None
        return
    columns = (TextColumn(words), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(words, total=total())
        yield lambda done: progress.update(task, completed=done)
