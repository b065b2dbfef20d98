"""The queue: which jobs wait. procrastinate keeps it in Postgres, so a job commits with the event that asks for it.

It lives in a schema of its own, ``queue``. Beside procrastinate's tables stands one of ours, ``queue.accepted``: the
builds that were asked of the pipeline and are not over. That is the promise; the jobs are only how it is kept, and
`PostgresQueue.forgotten` finds promises that no job keeps. Finished jobs are deleted: what happened is in the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol, cast

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job as QueuedJob
from procrastinate.manager import JobManager
from procrastinate.schema import SchemaManager
from procrastinate.types import JSONDict
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from pipeline.flow import KINDS, Job

SCHEMA = "queue"
QUEUES = KINDS
STEP = "step"
"""The name of the one task that procrastinate knows: do the step that the arguments name."""

Connection = AsyncConnection[Any]

_SCRIPT = """
create table if not exists accepted (
    build text primary key,
    accepted_at timestamptz not null default now()
);
comment on table accepted is 'Builds that were asked of the pipeline and are not over; emptied by the pipeline itself.';
comment on column accepted.build is 'The id of the stream build-{id}.';
comment on column accepted.accepted_at is 'When the build was asked for.';
do $$
declare
    name regprocedure;
begin
    -- Its triggers find their tables whoever fires them, so that the queue can be mended with plain SQL.
    for name in select oid from pg_proc where pronamespace = 'queue'::regnamespace loop
        execute format('alter function %s set search_path = queue, pg_temp', name);
    end loop;
    if exists (select from pg_roles where rolname = 'foldstream_app') then
        grant usage on schema queue to foldstream_app;
        grant select, insert, update, delete on all tables in schema queue to foldstream_app;
        grant usage, select on all sequences in schema queue to foldstream_app;
    end if;
end
$$;
"""


async def install(where: str | Connection) -> None:
    """Bring a database (its DSN, or a connection of its owner) to what the queue needs. Harmless to repeat.

    A later procrastinate with another schema brings migration files; they are to be applied here, by name.
    """
    if isinstance(where, str):
        async with await AsyncConnection.connect(where, autocommit=True) as connection:
            await install(connection)
        return
    async with where.transaction():
        await where.execute("select pg_advisory_xact_lock(hashtextextended('foldstream.queue', 0))")
        await where.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(SCHEMA)))
        async with _inside(where):
            known = await (await where.execute("select to_regclass('queue.procrastinate_jobs') is not null")).fetchone()
            if not _only(known):
                await where.execute(SchemaManager.get_schema())
            await where.execute(_SCRIPT)


def _only(row: Any) -> Any:
    """The one value of a row, whatever row factory the connection has."""
    return next(iter(row.values())) if isinstance(row, dict) else row[0]


@asynccontextmanager
async def _inside(connection: Connection) -> AsyncIterator[None]:
    """procrastinate's names resolve inside; afterwards search_path is as before. Needs an open transaction."""
    row = await (await connection.execute("select current_setting('search_path')")).fetchone()
    await connection.execute("select set_config('search_path', %s, true)", (f"{SCHEMA}, public",))
    yield
    await connection.execute("select set_config('search_path', %s, true)", (_only(row),))


async def enqueue(connection: Connection, jobs: Iterable[Job]) -> None:
    """Make sure that ``jobs`` wait or run, as part of the transaction that is open on ``connection``.

    A job that waits or runs already is left alone, so asking twice is free. Always in the order of the keys: two
    transactions that ask for the same jobs must not wait for each other.
    """
    defer = JobManager(procrastinate.PsycopgConnector())  # never opened: it only brings procrastinate's SQL
    async with _inside(connection):
        for job in sorted(jobs):
            row = await connection.execute(
                "select exists (select from procrastinate_jobs where lock = %s and status in ('todo', 'doing'))",
                (job.key,),
            )
            if _only(await row.fetchone()):
                continue
            try:
                async with connection.transaction():  # a savepoint: losing this race must not cost the caller's work
                    await defer.defer_job_async(_queued(job), connection=connection)
            except AlreadyEnqueued:
                pass


def _queued(job: Job) -> QueuedJob:
    """lock: one worker at a time does it. queueing_lock: it waits at most once."""
    arguments: JSONDict = {"kind": job.kind, "build": job.build, "step": job.step}
    return QueuedJob(queue=job.kind, lock=job.key, queueing_lock=job.key, task_name=STEP, task_kwargs=arguments)


async def accept(connection: Connection, build: str, jobs: Iterable[Job]) -> None:
    """Promise ``build`` and enqueue the jobs it begins with, as part of the append that asks for it."""
    await connection.execute("insert into queue.accepted (build) values (%s) on conflict do nothing", (build,))
    await enqueue(connection, jobs)


class Queue(Protocol):
    """What the steps of a build need of the queue."""

    async def settle(self, connection: Any, build: str, jobs: Iterable[Job], *, over: bool) -> None:
        """Within an append's transaction: enqueue what follows; when the build is over, the promise is kept."""
        ...

    async def ensure(self, build: str, jobs: Iterable[Job], *, over: bool) -> None:
        """The same, in a transaction of its own."""
        ...


class PostgresQueue:
    """The queue of one worker, on a pool of its own. Raises psycopg's errors when Postgres is away."""

    def __init__(self, dsn: str, *, size: int = 4, timeout: float = 3.0) -> None:
        options = conninfo_to_dict(dsn).get("options", "")
        conninfo = make_conninfo(dsn, options=f"{options} -c search_path={SCHEMA},public".strip(), connect_timeout=3)
        self.pool = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=size,
            timeout=timeout,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connected inside."""
        try:
            await self.pool.open(wait=True, timeout=self.pool.timeout)
            async with self.app.open_async(cast(Any, self.pool)):
                yield
        finally:
            await self.pool.close(timeout=0.2)

    async def settle(self, connection: Connection, build: str, jobs: Iterable[Job], *, over: bool) -> None:
        """See `Queue.settle`."""
        await enqueue(connection, jobs)
        if over:
            await connection.execute("delete from queue.accepted where build = %s", (build,))

    async def ensure(self, build: str, jobs: Iterable[Job], *, over: bool) -> None:
        """See `Queue.ensure`."""
        async with self.pool.connection() as connection, connection.transaction():
            await self.settle(connection, build, jobs, over=over)

    async def forgotten(self) -> list[str]:
        """Promised builds for which no job waits or runs."""
        async with self.pool.connection() as connection:
            rows = await connection.execute(
                """
                select build from queue.accepted
                where not exists (
                    select from queue.procrastinate_jobs job
                    where job.args ->> 'build' = accepted.build and job.status in ('todo', 'doing')
                )
                order by accepted_at limit 1000
                """
            )
            return [build for (build,) in await rows.fetchall()]

    async def take_back(self, stalled: Iterable[QueuedJob]) -> None:
        """Jobs whose workers are gone: forget that they run, let them wait anew.

        As new rows: should the old worker come back from a long sleep, it finishes a job that is not there any more,
        and not the one that somebody else is doing by now.
        """
        for row in stalled:
            async with self.pool.connection() as connection, connection.transaction():
                gone = await connection.execute(
                    "delete from queue.procrastinate_jobs where id = %s and status = 'doing' returning id", (row.id,)
                )
                if await gone.fetchone() and row.task_name == STEP:
                    await enqueue(connection, [Job(**cast("dict[str, str]", row.task_kwargs))])
