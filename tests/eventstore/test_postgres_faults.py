"""The Postgres store when things break: backends that are killed, frozen or blocked, a server that stops."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.lowlevel
import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import Event, NewEvent, StreamId
from eventstore.errors import Invalid, Unavailable
from eventstore.migrate import migrate
from eventstore.stores.postgres import PostgresStore
from foldstream.services import postgres

Sql = AsyncConnection[Any]
ONE, OTHER = StreamId("build", "1"), StreamId("build", "2")


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


KILLS = 15


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def custom(n: int = 0, key: str | None = None) -> NewEvent:
    return NewEvent("custom", {"n": n}, key=key)


async def backends(sql: Sql) -> list[int]:
    """The processes that serve the stores of this test."""
    found = await sql.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'foldstream'"
    )
    return [row[0] for row in await found.fetchall()]


async def terminate(sql: Sql, *, wait: int = 0) -> None:
    """End them; return when they have ended, or after ``wait`` milliseconds."""
    for pid in await backends(sql):
        await sql.execute("SELECT pg_terminate_backend(%s, %s)", (pid, wait))


async def test_an_event_the_database_refuses_fails_alone(sql: Sql, database: str) -> None:
    await sql.execute("ALTER TABLE events ADD CONSTRAINT no_poison CHECK (type <> 'poison')")
    async with PostgresStore(database) as store:
        await store.append(ONE, [custom()])
        answers = await asyncio.gather(
            *(store.append(StreamId("build", str(n)), [custom()]) for n in range(2, 30)),
            store.append(ONE, [NewEvent("poison")]),
            store.append(ONE, [custom()]),
            return_exceptions=True,
        )
        assert [str(answer) for answer in answers if isinstance(answer, Exception)] == [
            "the database refused the data: " + str(answers[28]).partition(": ")[2]
        ]
        assert isinstance(answers[28], Invalid)
        assert [event.version for event in await store.read(ONE)] == [1, 2]


async def test_a_backend_that_was_idle_when_it_died_is_noticed_by_nobody(sql: Sql, database: str) -> None:
    async with PostgresStore(database, smallest=4) as store:
        await asyncio.gather(*(store.read(ONE) for _ in range(20)))
        await terminate(sql, wait=5000)
        await store.append(ONE, [custom()])
        answers = await asyncio.gather(*(store.read(ONE) for _ in range(20)))
        assert [len(answer) for answer in answers] == [1] * 20


async def test_readers_who_go_away_cost_no_connection(sql: Sql, database: str) -> None:
    async with PostgresStore(database, smallest=3, largest=3) as store:
        await store.append(ONE, [custom(n) for n in range(300)])
        await asyncio.gather(*(store.read(ONE) for _ in range(10)))
        before = set(await backends(sql))
        for patience in range(40):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(store.read, ONE)
                    for _ in range(patience):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        assert len(await store.read(ONE)) == 300
        assert set(await backends(sql)) == before


@pytest.mark.live
async def test_backends_killed_in_the_middle_lose_and_double_nothing_that_has_a_key(sql: Sql, database: str) -> None:
    announced: list[Event] = []
    answered: list[Event] = []
    kills = 0
    async with PostgresStore(database, announce=announced.extend, patience=20.0) as store:

        async def write(writer: int) -> None:
            for n in count():
                events = [NewEvent("custom", {"w": writer, "n": n, "i": i}, key=f"{writer}:{n}:{i}") for i in range(3)]
                answered.extend(await store.append(ONE, events))
                if kills >= KILLS:
                    return

        writing = asyncio.gather(*(write(writer) for writer in range(8)))
        while kills < KILLS:
            heard = len(announced)
            await until(lambda heard=heard: len(announced) > heard)  # type: ignore[misc]
            await terminate(sql)
            kills += 1
        await writing
        log = [event async for event in read_all_of(store, ONE)]
    assert [event.version for event in log] == list(range(1, len(log) + 1))
    assert len(log) >= KILLS
    assert sorted(answered, key=lambda event: event.version) == log, "each was answered as it was recorded, once"
    assert {event.version for event in announced} == {event.version for event in log}
    fresh: list[int] = []
    for event in announced:  # a repetition may announce again what nobody knew to be recorded; never out of order
        if not fresh or event.version > fresh[-1]:
            assert event.version == (fresh[-1] if fresh else 0) + 1
            fresh.append(event.version)


async def read_all_of(store: PostgresStore, stream: StreamId) -> AsyncIterator[Event]:
    cursor = 0
    while page := await store.read(stream, cursor):
        for event in page:
            yield event
        cursor = page[-1].version


@pytest.mark.live
async def test_without_a_key_the_truth_is_told_when_nobody_knows(sql: Sql, database: str) -> None:
    counted = {"recorded": 0, "unknown": 0, "not recorded": 0}
    stop: list[bool] = []
    async with PostgresStore(database, patience=5.0) as store:

        async def write(writer: int) -> None:
            for n in count():
                if stop:
                    return
                try:
                    await store.append(ONE, [custom(n)])
                    counted["recorded"] += 1
                except Unavailable as error:
                    counted["unknown" if "unknown" in error.detail else "not recorded"] += 1

        writing = asyncio.gather(*(write(writer) for writer in range(8)))
        for kills in range(50 * KILLS):
            heard = counted["recorded"]
            await until(lambda heard=heard: counted["recorded"] > heard)  # type: ignore[misc]
            await terminate(sql)
            if kills >= KILLS and counted["unknown"]:
                break
        stop.append(True)
        await writing
        stored = len([event async for event in read_all_of(store, ONE)])
    assert counted["recorded"] <= stored <= counted["recorded"] + counted["unknown"]
    assert counted["unknown"] > 0


async def test_a_backend_killed_before_the_commit_takes_the_joined_work_with_it(sql: Sql, database: str) -> None:
    await sql.execute("CREATE TABLE job (n int); GRANT ALL ON job TO foldstream_app")

    async def killed(connection: Sql) -> None:
        await connection.execute("INSERT INTO job VALUES (1)")
        await sql.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        await connection.execute("SELECT 1")

    async def done(connection: Sql) -> None:
        await connection.execute("INSERT INTO job VALUES (2)")

    async def broken(connection: Sql) -> None:
        await connection.execute("INSERT INTO job VALUES (3)")
        await connection.execute("SELECT 1/0")

    async with PostgresStore(database) as store:
        with pytest.raises(Unavailable, match="nothing was recorded"):
            await store.append(ONE, [custom()], also=killed)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await store.append(ONE, [custom()], also=broken)
        assert await store.read(ONE) == []
        await store.append(ONE, [custom()], also=done)
        assert len(await store.read(ONE)) == 1
    assert await (await sql.execute("SELECT n FROM job")).fetchall() == [(2,)]


@asynccontextmanager
async def locked(database: str, stream: StreamId) -> AsyncIterator[None]:
    """Another program that has appended to the stream and does not come to its end."""
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute("SELECT append_event(%s, 'custom', '{}')", (str(stream),))
        yield


async def test_a_stream_that_somebody_holds_delays_the_others_once_and_then_no_more(database: str) -> None:
    async with PostgresStore(database, patience=1.0) as store:
        await store.append(ONE, [custom()])
        async with locked(database, ONE):
            stuck = asyncio.create_task(store.append(ONE, [custom()]))
            free = await asyncio.gather(
                *(store.append(StreamId("build", str(n)), [custom()]) for n in range(2, 30)), return_exceptions=True
            )
            assert [answer for answer in free if isinstance(answer, Exception)] == []
            with pytest.raises(Unavailable, match="nothing was recorded"):
                await stuck
        assert [event.version for event in await store.append(ONE, [custom()])] == [3], "2 is the holder's"


async def test_when_all_connections_are_taken_a_caller_is_turned_down_in_time(database: str) -> None:
    release = asyncio.Event()
    began = asyncio.Event()

    async def dawdle(connection: Sql) -> None:
        began.set()
        await release.wait()

    async with PostgresStore(database, smallest=1, largest=1, patience=0.6) as store:
        slow = asyncio.create_task(store.append(ONE, [custom()], also=dawdle))
        await began.wait()
        start = time.monotonic()
        answers = await asyncio.gather(store.read(ONE), store.append(OTHER, [custom()]), return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert time.monotonic() - start < 3
        release.set()
        await asyncio.gather(slow, return_exceptions=True)
        await store.append(OTHER, [custom()])


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that live and do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.live
async def test_a_frozen_backend_is_given_up_in_time_and_replaced(sql: Sql, database: str) -> None:
    async with PostgresStore(database, smallest=2, patience=0.8) as store:
        await store.append(ONE, [custom()])
        await asyncio.gather(*(store.read(ONE) for _ in range(10)))
        with stopped(await backends(sql)):
            start = time.monotonic()
            answers = await asyncio.gather(
                store.append(ONE, [custom(1)]), store.append(OTHER, [custom(2, key="k")]), return_exceptions=True
            )
            assert isinstance(answers[0], Unavailable)
            assert "unknown" in answers[0].detail
            assert time.monotonic() - start < 3
            for _ in range(8):  # each try meets a frozen backend, gives it up, or has a new one
                with suppress(Unavailable):
                    assert len(await store.read(ONE)) == 1
                    break
            else:
                pytest.fail("no new backend came")
        await store.append(OTHER, [custom(2, key="k")])
        assert len(await store.read(OTHER)) == 1
        assert len(await store.append(ONE, [custom(3)])) == 1


class Restartable:
    """A server of our own that keeps its data and its address over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link = folder / "s"
        self._stack = ExitStack()
        self.dsn = f"postgresql://postgres@/postgres?host={self._link}"

    def start(self) -> None:
        url = self._stack.enter_context(postgres(self._folder / "data", durable=False))
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(parse_qs(urlsplit(url).query)["host"][0])

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def server() -> Iterator[Restartable]:
    with tempfile.TemporaryDirectory(prefix="foldstream-test-") as folder:
        server = Restartable(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.mark.live
async def test_a_server_that_stops_is_unavailable_and_all_goes_on_when_it_is_back(server: Restartable) -> None:
    await migrate(server.dsn)
    async with PostgresStore(server.dsn, patience=1.0) as store:
        await store.append(ONE, [custom(0)])
        server.stop()
        for call in (store.append(ONE, [custom(1)]), store.read(ONE), store.heads([ONE]), store.ping()):
            start = time.monotonic()
            with pytest.raises(Unavailable):
                await call
            assert time.monotonic() - start < 2.5
        assert time.monotonic() - start < 1.0, "once it is known to be away, it answers faster"
        server.start()
        start = time.monotonic()
        event = None
        while event is None and time.monotonic() - start < 5:
            with suppress(Unavailable):
                [event] = await store.append(ONE, [custom(2)])
        assert event, "the first append comes at most five seconds after the server"
        assert event.version == 2
        assert [event.data["n"] for event in await store.read(ONE)] == [0, 2]


@pytest.mark.live
@pytest.mark.req("S1-45")
async def test_writers_live_through_a_restart_and_what_was_answered_is_there(server: Restartable) -> None:
    await migrate(server.dsn)
    answered: set[str] = set()
    done = 0
    async with PostgresStore(server.dsn, patience=2.0) as store:

        async def write(writer: int) -> None:
            nonlocal done
            for n in range(60):
                key = f"{writer}:{n}"
                while key not in answered:
                    try:
                        await store.append(ONE, [custom(n, key)])
                        answered.add(key)
                    except Unavailable:
                        await asyncio.sleep(0.02)
                done += 1

        writing = asyncio.gather(*(write(writer) for writer in range(4)))
        while done < 60:
            await asyncio.sleep(0)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(30):
            await writing
        log = [event async for event in read_all_of(store, ONE)]
    assert [event.version for event in log] == list(range(1, 241)), "nothing lost, nothing twice"
