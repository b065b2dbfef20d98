"""Lines to Postgres: what is asked is answered, in every way in which a connection can be lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg import AsyncConnection

from eventstore.stores.connections import Connections
from eventstore.stores.lean import Answer, Dead, Line, Lines, Param

Sql = AsyncConnection[Any]
STATEMENTS = {
    b"double": b"SELECT 2 * $1::int",
    b"divide": b"SELECT 1 / $1::int",
    b"length": b"SELECT length($1::text)",
    b"echo": b"SELECT repeat('x', $1::int)",
    b"sleep": b"SELECT pg_sleep(60)",
    b"me": b"SELECT pg_backend_pid()",
}


def number(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def opened(database: str, *, count: int = 1, patience: float = 10.0) -> AsyncIterator[Lines]:
    connections = Connections(database, smallest=0, largest=1, patience=patience)
    lines = Lines(connections.dial, STATEMENTS, count=count, patience=patience)
    await lines.open()
    try:
        yield lines
    finally:
        await lines.close()


async def free(lines: Lines) -> Line:
    async with asyncio.timeout(10):
        while (line := lines.free()) is None:
            await asyncio.sleep(0.001)
    return line


def ask(line: Line, statement: bytes, *params: Param) -> asyncio.Future[Answer]:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    line.ask(statement, params, answered.set_result)
    return answered


async def value(line: Line, statement: bytes, *params: Param) -> bytes | None:
    answer = await ask(line, statement, *params)
    assert not isinstance(answer, Exception), answer
    return answer.get_value(0, 0)


async def pid(line: Line) -> int:
    return int.from_bytes(await value(line, b"me") or b"", "big")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_line_answers_one_question_after_the_other(database: str) -> None:
    async with opened(database) as lines:
        line = await free(lines)
        for n in range(50):
            assert await value(line, b"double", number(n)) == number(2 * n)
            assert lines.free() is line, "the same one, ready for the next"


async def test_a_line_that_was_asked_is_not_free_until_it_was_answered(database: str) -> None:
    async with opened(database, count=2) as lines:
        one = await free(lines)
        answered = ask(one, b"double", number(1))
        other = lines.free()
        assert other not in (None, one)
        assert other is not None
        also = ask(other, b"double", number(2))
        assert lines.free() is None
        await asyncio.gather(answered, also)
        assert lines.free() is not None


async def test_what_the_server_refuses_is_told_and_the_line_lives_on(database: str) -> None:
    async with opened(database) as lines:
        line = await free(lines)
        answer = await ask(line, b"divide", number(0))
        assert isinstance(answer, psycopg.errors.DivisionByZero)
        assert answer.sqlstate == "22012"
        assert await value(line, b"divide", number(1)) == number(1)


@pytest.mark.parametrize("size", [100, 5_000_000])
async def test_long_questions_and_long_answers_arrive_whole(database: str, size: int) -> None:
    async with opened(database) as lines:
        line = await free(lines)
        for _ in range(3):
            assert await value(line, b"length", b"x" * size) == number(size)
            assert await value(line, b"echo", number(size)) == b"x" * size


async def test_a_backend_that_died_while_idle_is_noticed_before_it_is_asked(sql: Sql, database: str) -> None:
    async with opened(database, count=2) as lines:
        for _ in range(5):
            line = await free(lines)
            await sql.execute("SELECT pg_terminate_backend(%s, 5000)", (await pid(line),))
            if (other := lines.free()) is not None:
                assert other is not line
            assert await value(await free(lines), b"double", number(2)) == number(4)


async def test_a_backend_killed_in_the_middle_leaves_the_question_dead(sql: Sql, database: str) -> None:
    async with opened(database) as lines:
        for _ in range(3):
            line = await free(lines)
            number_ = await pid(line)
            answered = ask(line, b"sleep")
            await sql.execute("SELECT pg_terminate_backend(%s)", (number_,))
            assert isinstance(await answered, Dead)
            assert not line.open
        assert await value(await free(lines), b"double", number(2)) == number(4), "another one was opened"


@pytest.mark.live
async def test_a_frozen_backend_is_given_up_in_time_and_replaced(database: str) -> None:
    async with opened(database, patience=0.4) as lines:
        line = await free(lines)
        frozen = await pid(line)
        os.kill(frozen, signal.SIGSTOP)
        try:
            loop = asyncio.get_running_loop()
            start = loop.time()
            assert isinstance(await ask(line, b"double", number(1)), Dead)
            assert loop.time() - start < 2
            assert await pid(await free(lines)) != frozen
        finally:
            os.kill(frozen, signal.SIGCONT)


async def test_a_server_that_cannot_be_had_costs_nobody_time() -> None:
    async with opened("postgresql://nobody@/nothing?host=/nowhere") as lines:
        for _ in range(10):
            assert lines.free() is None
            await asyncio.sleep(0)


async def test_closing_ends_every_question(database: str) -> None:
    async with opened(database) as lines:
        answered = ask(await free(lines), b"sleep")
    assert isinstance(await answered, Dead)
    assert lines.free() is None


async def test_lines_that_come_and_go_leave_no_file_open(sql: Sql, database: str) -> None:
    async with opened(database, count=2) as lines:
        await free(lines)
        before = open_files()
        for _ in range(20):
            line = await free(lines)
            number_ = await pid(line)
            answered = ask(line, b"sleep")
            await sql.execute("SELECT pg_terminate_backend(%s)", (number_,))
            await answered
        async with asyncio.timeout(10):
            while open_files() != before:
                lines.free()
                await asyncio.sleep(0.001)


async def _all_of(database: str, scenarios: Sequence[Callable[[str], Awaitable[None]]]) -> None:
    for scenario in scenarios:
        await scenario(database)


async def test_the_other_event_loop_does_as_well(database: str) -> None:
    async def killed(database: str) -> None:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as sql:
            await test_a_backend_killed_in_the_middle_leaves_the_question_dead(sql, database)
            await test_a_backend_that_died_while_idle_is_noticed_before_it_is_asked(sql, database)
            await test_lines_that_come_and_go_leave_no_file_open(sql, database)

    async def long(database: str) -> None:
        await test_long_questions_and_long_answers_arrive_whole(database, 5_000_000)

    scenarios = (test_a_line_answers_one_question_after_the_other, killed, long, test_closing_ends_every_question)
    await asyncio.to_thread(uvloop.run, _all_of(database, scenarios))
