"""The commit that nobody heard of: Postgres recorded the append, and the line went dead before it could say so."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import Event, NewEvent, StreamId
from eventstore.errors import Unavailable
from eventstore.stores.postgres import PostgresStore

Sql = AsyncConnection[Any]
ONE = StreamId("build", "1")


class DeafLine:
    """A line to Postgres that can swallow the answer to what is said next, and then hang up."""

    def __init__(self, folder: Path, database: str) -> None:
        parts = urlsplit(database)
        query = parse_qs(parts.query)
        self._server = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
        self._here = folder / ".s.PGSQL.5432"
        self.dsn = parts._replace(query=f"host={folder}&port=5432").geturl()
        self.swallow_after: bytes | None = None
        self.swallowed = 0

    async def open(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, str(self._here))

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_unix_connection(self._server)
        deaf = asyncio.Event()

        async def hear() -> None:
            while said := await answers.read(65536):
                if deaf.is_set() and said.endswith(b"Z\x00\x00\x00\x05I"):  # ReadyForQuery, idle: it is committed
                    self.swallowed += 1
                    break
                back.write(said)
            back.close()

        async def say() -> None:
            while said := await client.read(65536):
                if self.swallow_after is not None and self.swallow_after in said:
                    self.swallow_after = None
                    deaf.set()
                server.write(said)
            server.close()

        await asyncio.gather(hear(), say())


@pytest.fixture
async def line(database: str) -> AsyncIterator[DeafLine]:
    if not parse_qs(urlsplit(database).query).get("host"):
        pytest.skip("the server of these tests is not reached through a Unix socket")
    with tempfile.TemporaryDirectory(prefix="foldstream-test-") as folder:
        line = DeafLine(Path(folder), database)
        server = await line.open()
        yield line
        server.close()


@pytest.fixture
async def jobs(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute("CREATE TABLE job (n int); GRANT ALL ON job TO foldstream_app")
        yield owner


async def count_jobs(jobs: Sql) -> int:
    [(count,)] = await (await jobs.execute("SELECT count(*)::int FROM job")).fetchall()
    return int(count)


async def test_with_keys_it_is_asked_again_and_recorded_once(line: DeafLine) -> None:
    announced: list[Event] = []
    async with PostgresStore(line.dsn, announce=announced.extend) as store:
        line.swallow_after = b"the-key"
        [event] = await store.append(ONE, [NewEvent("custom", {"n": 1}, key="the-key")])
        assert line.swallowed == 1
        assert await store.read(ONE) == [event] == announced, "it is announced, though its first answer was lost"


async def test_without_keys_the_caller_learns_that_nobody_knows(line: DeafLine) -> None:
    async with PostgresStore(line.dsn) as store:
        line.swallow_after = b"unheard"
        answers = await asyncio.gather(
            store.append(ONE, [NewEvent("custom", {"n": "unheard"})]),
            store.append(ONE, [NewEvent("custom", {"n": "keyed"}, key="k")]),
            return_exceptions=True,
        )
        assert isinstance(answers[0], Unavailable)
        assert "whether the append was recorded is unknown" in answers[0].detail
        assert [event.data["n"] for event in await store.read(ONE)] == ["unheard", "keyed"]
        assert isinstance(answers[1], list)
        assert [event.version for event in answers[1]] == [2], "its neighbour in the batch had a key"


async def test_work_that_joined_is_not_done_again_by_the_callers_own_retry(line: DeafLine, jobs: Sql) -> None:
    async def also(connection: Sql) -> None:
        await connection.execute("INSERT INTO job VALUES (1)")

    async with PostgresStore(line.dsn) as store:
        line.swallow_after = b"COMMIT"
        with pytest.raises(Unavailable, match="unknown"):
            await store.append(ONE, [NewEvent("custom", key="k")], also=also)
        assert line.swallowed == 1
        [event] = await store.append(ONE, [NewEvent("custom", key="k")], also=also)
        assert event.version == 1
        assert len(await store.read(ONE)) == 1
    assert await count_jobs(jobs) == 1
