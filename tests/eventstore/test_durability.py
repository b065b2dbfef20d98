"""Which appends wait for the disk: all, unless every one of a commit says that it need not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore

Sql = AsyncConnection[Any]
STREAMS = [StreamId("build", str(number)) for number in range(5)]

# What a commit waits for is a setting of its transaction: a trigger that fires at the commit writes down what it is.
WATCH = """
CREATE TABLE seen (setting text, version int);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.seen VALUES (current_setting('synchronous_commit'), NEW.version);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER see AFTER INSERT ON events_1 DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION see();
"""


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        # The server of the tests waits for nothing; the sessions of this database do, as everywhere else.
        name = connection.info.dbname
        await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = on'.encode())
        await connection.execute(WATCH.encode())
        yield connection


async def settings(sql: Sql) -> list[str]:
    found = [row[0] for row in await (await sql.execute("SELECT setting FROM seen ORDER BY version")).fetchall()]
    await sql.execute("TRUNCATE seen")
    return found


async def test_an_append_waits_for_the_disk_unless_it_says_otherwise(sql: Sql, database: str) -> None:
    async with PostgresStore(database) as store:
        await store.append(STREAMS[0], [NewEvent("a")])
        await store.append(STREAMS[0], [NewEvent("a")])
        assert await settings(sql) == ["on", "on"], "of a new stream, and of one that is known"
        await store.append(STREAMS[0], [NewEvent("a")], durable=False)
        await store.append(STREAMS[0], [NewEvent("a"), NewEvent("b")], durable=False)
        await store.append(STREAMS[1], [NewEvent("a")], durable=False)
        assert await settings(sql) == ["off"] * 4
        await store.append(STREAMS[0], [NewEvent("a")])
        assert await settings(sql) == ["on"], "it was for those transactions only"
        assert [event.version for event in await store.read(STREAMS[0])] == [1, 2, 3, 4, 5, 6]


async def test_who_waits_for_the_disk_is_not_hurried_by_others_of_the_same_commit(sql: Sql, database: str) -> None:
    async with PostgresStore(database) as store:
        await asyncio.gather(*(store.append(stream, [NewEvent("a")]) for stream in STREAMS))
        await settings(sql)
        appends = (store.append(stream, [NewEvent("b")], durable=stream is STREAMS[2]) for stream in STREAMS)
        await asyncio.gather(*appends)
        position = "SELECT count(DISTINCT tx) FROM events WHERE type = 'b'"
        [(commits,)] = await (await sql.execute(position.encode())).fetchall()
        assert commits == 1
        assert set(await settings(sql)) == {"on"}
