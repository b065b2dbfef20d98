"""append_new() and append_one(), called as no writer of ours would: they refuse, and the log stays dense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import NewEvent
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BUILD_27

Sql = AsyncConnection[Any]
CALL = """
SELECT heads, positions FROM append_new(
    ARRAY['build'], ARRAY['27'], ARRAY[%(expected)s::int], ARRAY[%(count)s::int], ARRAY[1, 1], %(offsets)s::int[],
    ARRAY['custom', 'custom'], ARRAY['{}', '{}'], %(keys)s::text[], NULL, NULL, NULL, NULL, %(unsure)s)
"""
COMMON = {"expected": None, "count": 2, "offsets": [1, 2], "keys": None, "unsure": True}


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


async def test_it_appends_where_nothing_is_in_the_way(sql: Sql) -> None:
    [(heads, positions)] = await (await sql.execute(CALL, COMMON)).fetchall()
    assert heads == [0]
    assert positions == sorted(positions)
    [(heads, _)] = await (await sql.execute(CALL, COMMON | {"expected": 2, "unsure": False})).fetchall()
    assert heads == [2]
    assert await versions(sql) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"expected": 1},
        {"keys": ["k", "k"]},
        {"keys": ["new", "known"]},
        {"offsets": [1, 3]},
        {"offsets": [1, 1]},
        {"offsets": [0, 1]},
        {"offsets": [2, 3], "count": 3},
        {"count": 3},
        {"count": 1},
        {"count": 0},
        {"count": -1},
    ],
    ids=str,
)
async def test_whatever_is_wrong_it_refuses_and_leaves_no_hole(sql: Sql, database: str, wrong: dict[str, Any]) -> None:
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, [NewEvent("custom"), NewEvent("custom", key="known")])
        with pytest.raises(psycopg.Error) as refused:
            await sql.execute(CALL, COMMON | wrong)
        assert refused.value.sqlstate in {"FS001", "23505"}
        assert await versions(sql) == [1, 2]
        assert await store.heads([BUILD_27]) == {BUILD_27: 2}


async def test_no_stream_is_moved_back_by_the_counts_of_another(sql: Sql) -> None:
    for name in ("build-a", "build-a", "build-b"):
        await sql.execute("SELECT append_event(%s, 'custom')", (name,))
    ours, theirs = (
        "ARRAY[%(expected)s::int], ARRAY[%(count)s::int], ARRAY[1, 1]",
        "NULL, %(counts)s::int[], ARRAY[2, 2]",
    )
    crooked = CALL.replace("ARRAY['build'], ARRAY['27']", "ARRAY['build', 'build'], ARRAY['a', 'b']").replace(
        ours, theirs
    )
    for counts in ([-1, 3], [0, 2], [None, 2]):
        with pytest.raises(psycopg.Error) as refused:
            await sql.execute(crooked, COMMON | {"counts": counts, "unsure": False})
        assert refused.value.sqlstate == "FS001"
    found = await (await sql.execute("SELECT version FROM streams ORDER BY id")).fetchall()
    assert [row[0] for row in found] == [2, 1]


async def test_a_sealed_stream_and_one_that_is_not_there_are_in_its_way(sql: Sql) -> None:
    with pytest.raises(psycopg.Error, match="in the way"):
        await sql.execute(CALL, COMMON | {"unsure": False})
    await sql.execute(CALL, COMMON)
    await sql.execute("UPDATE streams SET sealed_at = now()")
    with pytest.raises(psycopg.Error, match="in the way"):
        await sql.execute(CALL, COMMON)
    assert await versions(sql) == [1, 2]


ONE = (
    "SELECT version, tx, position FROM append_one('build', '27', %s, 'custom', '{}', %s, NULL, NULL, NULL, 1::smallint)"
)


async def test_one_event_goes_behind_the_last_and_nothing_else_is_said_of_it(sql: Sql) -> None:
    await sql.execute(CALL, COMMON)
    found = [await (await sql.execute(ONE, given)).fetchone() for given in ((None, None), (3, "k"), (None, None))]
    assert [row and row[0] for row in found] == [3, 4, 5]
    recorded = await (
        await sql.execute("SELECT version, tx::text::bigint, position FROM events WHERE version > 2")
    ).fetchall()
    assert sorted(recorded) == found


@pytest.mark.parametrize("wrong", [(1, None), (3, None), (None, "known"), (-1, None)])
async def test_one_event_that_something_is_in_the_way_of_is_refused(
    sql: Sql, database: str, wrong: tuple[int | None, str | None]
) -> None:
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, [NewEvent("custom"), NewEvent("custom", key="known")])
    with pytest.raises(psycopg.Error) as refused:
        await sql.execute(ONE, wrong)
    assert refused.value.sqlstate in {"FS001", "23505"}
    assert await versions(sql) == [1, 2]


async def test_one_event_needs_its_stream_and_an_open_one(sql: Sql) -> None:
    with pytest.raises(psycopg.Error, match="in the way"):
        await sql.execute(ONE, (None, None))
    await sql.execute(CALL, COMMON)
    await sql.execute("SELECT seal_stream('build', '27')")
    with pytest.raises(psycopg.Error, match="in the way"):
        await sql.execute(ONE, (None, None))
    assert await versions(sql) == [1, 2]


async def versions(sql: Sql) -> list[int]:
    return [row[0] for row in await (await sql.execute("SELECT version FROM events ORDER BY version")).fetchall()]
