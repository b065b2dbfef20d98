"""migrate(): brings a database to what this release of the log needs. Called at every start, by every process.

An empty database gets `schema.sql`, which contains every migration; an older one gets the numbered files of
`migrations/` that it lacks, in order, each in a transaction of its own. A file whose first line is
`-- transactional: false` holds one statement that runs bare and is harmless when repeated, such as CREATE INDEX
CONCURRENTLY IF NOT EXISTS. What was applied is in the table schema_version, with checksums: applied files never change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.errors import CannotStart, Unavailable

SCHEMA = "schema.sql"
LOCK = 0x666F6C64  # "fold": the key of the advisory lock that one migrating process holds
OLDEST_SERVER = 150000
PATIENCE = 600.0
"""Seconds to wait for another process that migrates: building an index takes its time."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Step:
    """One file of SQL."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hex."""
        return sha256(self.sql.encode()).hexdigest()

    @property
    def is_bare(self) -> bool:
        """It cannot run inside a transaction."""
        return self.sql.startswith("-- transactional: false")


def schema() -> Step:
    """The whole database as it should be: beside this file in a wheel, at the root of the repository in a checkout."""
    for folder in (_HERE, _HERE.parent):
        if (folder / SCHEMA).is_file():
            return Step(SCHEMA, (folder / SCHEMA).read_text(encoding="utf-8"))
    raise CannotStart(f"{SCHEMA} is missing from this installation", fix="Install foldstream again.")


def numbered() -> list[Step]:
    """The migrations of this release, in order."""
    files = sorted((_HERE / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [Step(file.name, file.read_text(encoding="utf-8")) for file in files]


async def migrate(dsn: str, *, steps: Sequence[Step] | None = None, patience: float = PATIENCE) -> list[str]:
    """Apply what is missing; the names of what was applied, empty when there was nothing to do.

    Raises CannotStart when the database is newer than this release, was made with other files, or refuses one;
    Unavailable when it does not answer. Any number of processes may call this at the same time.
    """
    wanted = numbered() if steps is None else list(steps)
    try:
        connection = await AsyncConnection.connect(dsn, autocommit=True, application_name="foldstream migrate")
    except psycopg.OperationalError as error:
        raise Unavailable(f"Postgres cannot be reached: {error}") from error
    async with connection:
        await _check_server(connection)
        pending = _pending(await _applied(connection), wanted)
        if not pending:
            return []
        async with _alone(connection, patience):
            pending = _pending(await _applied(connection), wanted)  # somebody else may have done it while we waited
            for step in pending:
                await _apply(connection, step, also=wanted if step.name == SCHEMA else ())
        return [step.name for step in pending]


def _pending(applied: dict[str, str] | None, wanted: Sequence[Step]) -> list[Step]:
    """What has to be applied. None: the database is empty. Raises CannotStart."""
    if applied is None:
        return [schema()]
    if not applied:
        raise CannotStart(
            f"the tables are there, but nothing says which release made them: {SCHEMA} was loaded by hand",
            fix="Drop them and let `foldstream migrate` make them.",
        )
    known = {step.name: step for step in wanted}
    for name, checksum in applied.items():
        if name == SCHEMA:
            if not wanted and checksum != schema().checksum:  # nothing leads from that file to this one
                raise CannotStart(
                    f"the database was made by another {SCHEMA}, from before the first release",
                    fix="Choose another --data-dir, or drop the database and run `foldstream migrate`.",
                )
            continue
        if name not in known:
            raise CannotStart(
                f"the database was migrated by a newer release: {name} is unknown to this one",
                fix="Start the newer release, or restore the backup from before its migration.",
            )
        if known[name].checksum != checksum:
            raise CannotStart(
                f"{name} has changed since it was applied to this database",
                fix="Put the file back as it was and write the change as a new migration.",
            )
    return [step for step in wanted if step.name not in applied]


async def _check_server(connection: AsyncConnection[Any]) -> None:
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        raise CannotStart(f"PostgreSQL {version // 10000} is too old", fix="Use PostgreSQL 15 or newer.")
    encoding = await _one(connection, "SHOW server_encoding")
    if encoding != "UTF8":
        raise CannotStart(f"the database is encoded in {encoding}", fix="CREATE DATABASE ... ENCODING 'UTF8'.")


async def _applied(connection: AsyncConnection[Any]) -> dict[str, str] | None:
    """Name and checksum of each applied file; None for a database without any of our tables."""
    if await _one(connection, "SELECT to_regclass('public.schema_version') IS NULL"):
        return None
    rows = await (await connection.execute("SELECT name, checksum FROM public.schema_version")).fetchall()
    return dict(rows)


async def _apply(connection: AsyncConnection[Any], step: Step, *, also: Sequence[Step]) -> None:
    """Run a step and write down that it was applied, and that it contained those in ``also``."""
    try:
        if step.is_bare:
            await connection.execute(step.sql.encode())
            await _write_down(connection, [step])
        else:
            async with connection.transaction():
                await connection.execute(step.sql.encode())
                await _write_down(connection, [step, *also])
    except psycopg.Error as error:
        raise CannotStart(f"{step.name} failed: {error}", fix="Nothing of it was applied; mend the cause.") from error


async def _write_down(connection: AsyncConnection[Any], steps: Sequence[Step]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO public.schema_version (name, checksum) VALUES (%s, %s)",
            [(step.name, step.checksum) for step in steps],
        )


async def _one(connection: AsyncConnection[Any], sql: str) -> Any:
    row = await (await connection.execute(sql.encode())).fetchone()
    return row[0] if row else None


@asynccontextmanager
async def _alone(connection: AsyncConnection[Any], patience: float) -> AsyncIterator[None]:
    """Hold the lock. It is polled for: a session that waits inside SELECT pg_advisory_lock() would hold a snapshot, and
    the holder's CREATE INDEX CONCURRENTLY would wait for that snapshot for ever."""
    until = asyncio.get_running_loop().time() + patience
    while not await _one(connection, f"SELECT pg_try_advisory_lock({LOCK})"):
        if asyncio.get_running_loop().time() > until:
            raise CannotStart(
                f"another process has been migrating for {patience:g} seconds",
                fix="Look for `foldstream migrate` in pg_stat_activity.",
            )
        await asyncio.sleep(0.1)
    try:
        yield
    finally:
        if not connection.closed:
            await connection.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())
