"""docs/sql.md: every statement on it runs as printed, as the application's role, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventstore import StreamId
from eventstore.stores.postgres import PostgresStore

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
STATEMENTS = [
    statement.strip()
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for statement in re.sub(r" +--.*", "", block).split(";\n")
    if statement.strip()
]


async def test_every_statement_of_the_page_runs_as_printed(database: str) -> None:
    answers: list[list[tuple[Any, ...]]] = []
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as sql:
        await sql.execute("SET ROLE foldstream_app")
        for statement in STATEMENTS:
            done = await sql.execute(statement.encode())
            answers.append(await done.fetchall() if done.description else [])
    assert len(STATEMENTS) == 11
    assert answers[0] == [(1,)]
    assert answers[6] == [(2,)], "the view's INSERT is the second event of build 27"
    assert [row[0] for row in answers[7]] == [2]
    assert answers[-1] == [], "the chain holds"
    async with PostgresStore(database) as store:
        [paid] = await store.read(StreamId("build", "4711"))
    assert paid.json == b'{"message": "Paid"}'


@pytest.mark.req("S1-05", "S1-24", "S2-48")
async def test_the_views_have_exactly_the_columns_of_the_page(database: str) -> None:
    named = {
        view: re.findall(r"`(\w+)`", columns)
        for views, columns in re.findall(r"^\| (`.+?`) \| (`id`.+|`build_id`.+) \|$", PAGE, re.MULTILINE)
        for view in re.findall(r"`(\w+)`", views)
    }
    async with await psycopg.AsyncConnection.connect(database) as sql:
        found = await sql.execute(
            """SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position)
               FROM information_schema.columns JOIN information_schema.views USING (table_schema, table_name)
               WHERE table_schema = 'public' GROUP BY 1"""
        )
        assert dict(await found.fetchall()) == named
