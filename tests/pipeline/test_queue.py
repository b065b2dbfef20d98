"""The queue: jobs commit with the append that asks for them, wait once, and are taken back from the dead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import psycopg
import pytest

from eventstore.event import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore
from pipeline.flow import Job
from pipeline.queue import PostgresQueue, accept, enqueue, install

PLAN = Job("plan", "27")
TASKS = [Job("task", "27", name) for name in "cab"]


@pytest.fixture
async def connection(queue_database: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """As the store has it: autocommit, and acting as the application's role."""
    async with await psycopg.AsyncConnection.connect(queue_database, autocommit=True) as connection:
        await connection.execute("set role foldstream_app")
        yield connection


@pytest.fixture
async def queue(queue_database: str) -> AsyncIterator[PostgresQueue]:
    queue = PostgresQueue(queue_database)
    async with queue.open():
        yield queue


async def rows(dsn: str, columns: str = "lock") -> list[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(f"select {columns} from queue.procrastinate_jobs order by id")  # type: ignore[arg-type]
        return [row[0] if len(row) == 1 else row for row in await found.fetchall()]


async def test_installing_twice_changes_nothing(empty_database: str) -> None:
    import asyncio

    await asyncio.gather(*(install(empty_database) for _ in range(3)))
    async with await psycopg.AsyncConnection.connect(empty_database) as connection:
        await install(connection)
    assert await rows(empty_database) == []


async def test_a_job_waits_once(queue_database: str, connection: Any) -> None:
    for _ in range(2):
        async with connection.transaction():
            await enqueue(connection, [*TASKS, PLAN])
    assert await rows(queue_database, "lock, queueing_lock, queue_name, args") == [
        (job.key, job.key, job.kind, {"kind": job.kind, "build": "27", "step": job.step})
        for job in sorted([*TASKS, PLAN])
    ]


async def test_a_job_that_runs_does_not_wait_as_well(queue_database: str, connection: Any) -> None:
    async with connection.transaction():
        await enqueue(connection, [PLAN])
        await connection.execute("update queue.procrastinate_jobs set status = 'doing'")
    async with connection.transaction():
        await enqueue(connection, [PLAN])
    assert await rows(queue_database) == [PLAN.key]


async def test_the_callers_search_path_stays(connection: Any) -> None:
    async with connection.transaction():
        await connection.execute("set local search_path = pg_temp, public")
        await enqueue(connection, [PLAN, PLAN])
        row = await (await connection.execute("show search_path")).fetchone()
    assert row == ("pg_temp, public",)


async def test_losing_a_race_does_not_cost_the_callers_work(queue_database: str, connection: Any) -> None:
    """Two transactions ask for the same job; the second finds out only when it inserts."""
    import asyncio

    async with await psycopg.AsyncConnection.connect(queue_database) as other:
        await enqueue(other, [PLAN])

        async def mine() -> None:
            async with connection.transaction():
                await connection.execute("create temp table mark ()")
                await enqueue(connection, [PLAN, *TASKS])

        waiting = asyncio.create_task(mine())
        while not await blocked(queue_database):
            await asyncio.sleep(0.01)
        await other.commit()
        await asyncio.wait_for(waiting, 5)
    assert sorted(await rows(queue_database)) == sorted(job.key for job in [PLAN, *TASKS])
    assert await (await connection.execute("select to_regclass('mark') is not null")).fetchone() == (True,)


async def blocked(dsn: str) -> bool:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (
            await connection.execute(
                "select count(*) from pg_locks l join pg_database d on d.oid = l.database or l.database is null"
                " where not granted and d.datname = current_database()"
            )
        ).fetchone()
        return bool(row and row[0])


async def test_the_job_commits_with_the_event_or_not_at_all(queue_database: str, store: PostgresStore) -> None:
    stream = StreamId("build", "27")

    async def break_off(connection: Any) -> None:
        await accept(connection, "27", [PLAN])
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await store.append(stream, [NewEvent("build_queued")], expected=0, also=break_off)
    assert await store.read(stream) == []
    assert await rows(queue_database) == []
    await store.append(stream, [NewEvent("build_queued")], expected=0, also=partial(accept, build="27", jobs=[PLAN]))
    assert len(await store.read(stream)) == 1
    assert await rows(queue_database) == [PLAN.key]


async def test_a_promise_without_a_job_is_found(queue: PostgresQueue, connection: Any) -> None:
    async with connection.transaction():
        for build in ("27", "28", "29"):
            await accept(connection, build, [Job("plan", build)])
    await connection.execute("delete from queue.procrastinate_jobs where args ->> 'build' = '28'")
    await connection.execute("update queue.procrastinate_jobs set status = 'doing' where args ->> 'build' = '29'")
    assert await queue.forgotten() == ["28"]
    await queue.ensure("28", [], over=True)
    assert await queue.forgotten() == []


async def test_a_job_of_the_dead_waits_anew_under_another_number(
    queue_database: str, queue: PostgresQueue, connection: Any
) -> None:
    jobs = queue.app.job_manager
    dead, alive = await jobs.register_worker(), await jobs.register_worker()
    async with connection.transaction():
        await enqueue(connection, [PLAN, *TASKS])
    taken = [await jobs.fetch_job(None, worker) for worker in (dead, alive)]
    await connection.execute(
        "update queue.procrastinate_workers set last_heartbeat = now() - interval '1 minute' where id = %s", (dead,)
    )
    stalled = list(await jobs.get_stalled_jobs(seconds_since_heartbeat=10))
    assert [row.id for row in stalled] == [taken[0].id if taken[0] else None]
    await queue.take_back(stalled)
    await queue.take_back(stalled)  # two sweep at once
    assert len(await rows(queue_database)) == 4
    states = dict(await rows(queue_database, "lock, status"))
    assert states[stalled[0].lock] == "todo"
    assert [row for row in await rows(queue_database, "id") if row == stalled[0].id] == []
