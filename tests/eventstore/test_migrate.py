"""migrate(): an empty database, an older one, a newer one, a changed file, and four processes that start at once."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from eventstore import NewEvent
from eventstore.errors import CannotStart, Unavailable
from eventstore.migrate import LOCK, SCHEMA, Step, migrate, numbered, schema
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BUILD_27

ONE = Step("0001_note.sql", "CREATE TABLE note (n int); INSERT INTO note VALUES (1);")
TWO = Step("0002_more.sql", "INSERT INTO note VALUES (2);")
BARE = Step("0003_index.sql", "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS note_n ON note (n)")
BROKEN = Step("0004_broken.sql", "INSERT INTO note VALUES (3); SELECT 1/0;")


async def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def notes(dsn: str) -> list[int]:
    return [row[0] for row in await rows(dsn, "SELECT n FROM note ORDER BY n")]


@pytest.mark.req("N-05")
async def test_an_empty_database_gets_the_schema_and_then_nothing_is_left_to_do(empty_database: str) -> None:
    assert await migrate(empty_database) == [SCHEMA]
    assert await migrate(empty_database) == []
    async with PostgresStore(empty_database) as store:
        assert len(await store.append(BUILD_27, [NewEvent("custom")])) == 1


async def test_the_schema_contains_every_migration(empty_database: str) -> None:
    """Proved by doing: they are written down as applied, and running them would fail, for there is no table note."""
    assert await migrate(empty_database, steps=[TWO]) == [SCHEMA]
    assert await migrate(empty_database, steps=[TWO]) == []
    assert await rows(empty_database, "SELECT name, checksum FROM schema_version ORDER BY name") == [
        (TWO.name, TWO.checksum),
        (SCHEMA, schema().checksum),
    ]


async def test_an_older_database_gets_what_it_lacks_in_order(empty_database: str) -> None:
    await migrate(empty_database, steps=[])
    assert await migrate(empty_database, steps=[ONE]) == [ONE.name]
    assert await migrate(empty_database, steps=[ONE, TWO, BARE]) == [TWO.name, BARE.name]
    assert await notes(empty_database) == [1, 2]
    assert await rows(empty_database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'note_n'::regclass") == [
        (True,)
    ]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database: str) -> None:
    await migrate(empty_database, steps=[])
    with pytest.raises(CannotStart, match=r"0004_broken\.sql failed: division by zero"):
        await migrate(empty_database, steps=[ONE, BROKEN])
    assert await notes(empty_database) == [1]
    assert await migrate(empty_database, steps=[ONE, TWO]) == [TWO.name]


async def test_a_file_that_changed_after_it_was_applied_is_named(empty_database: str) -> None:
    await migrate(empty_database, steps=[])
    await migrate(empty_database, steps=[ONE])
    with pytest.raises(CannotStart, match=r"0001_note\.sql has changed"):
        await migrate(empty_database, steps=[Step(ONE.name, ONE.sql + " "), TWO])
    assert await notes(empty_database) == [1]


async def test_a_database_of_a_newer_release_is_left_alone(empty_database: str) -> None:
    await migrate(empty_database, steps=[])
    await migrate(empty_database, steps=[ONE])
    with pytest.raises(CannotStart, match=r"newer release: 0001_note\.sql"):
        await migrate(empty_database, steps=[])


async def test_a_schema_that_was_loaded_by_hand_is_not_guessed_at(empty_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database) as connection:
        await connection.execute(schema().sql.encode())
    with pytest.raises(CannotStart, match="loaded by hand"):
        await migrate(empty_database)


async def test_four_processes_that_start_at_once_do_it_once(empty_database: str) -> None:
    done = await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    assert sorted(done) == [[], [], [], [SCHEMA]]
    done = await asyncio.gather(*(migrate(empty_database, steps=[ONE, TWO, BARE]) for _ in range(4)))
    assert sorted(done) == [[], [], [], [ONE.name, TWO.name, BARE.name]]
    assert await notes(empty_database) == [1, 2]


async def test_who_waits_too_long_for_the_lock_says_so(empty_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as holder:
        await holder.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        with pytest.raises(CannotStart, match="another process has been migrating"):
            await migrate(empty_database, patience=0.05)


async def test_a_plain_user_may_start_on_a_database_that_is_ready(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute("DROP ROLE IF EXISTS foldstream_test_reader")
        await owner.execute("CREATE ROLE foldstream_test_reader LOGIN IN ROLE foldstream_app")
        try:
            as_reader = database.replace("postgres@", "foldstream_test_reader@")
            assert await migrate(as_reader) == []
            async with PostgresStore(as_reader) as store:
                assert len(await store.append(BUILD_27, [NewEvent("custom")])) == 1
        finally:
            await owner.execute("DROP OWNED BY foldstream_test_reader")
            await owner.execute("DROP ROLE foldstream_test_reader")


async def test_an_owner_who_may_make_no_roles_gets_a_log_all_the_same(empty_database: str) -> None:
    """Hosted databases: the user owns the database and nothing else. The role may be there from another database."""
    name = "foldstream_test_owner"
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN".encode())
        try:
            await admin.execute(f'ALTER DATABASE "{admin.info.dbname}" OWNER TO {name}'.encode())
            as_owner = empty_database.replace("postgres@", f"{name}@")
            assert await migrate(as_owner) == [SCHEMA]
            async with PostgresStore(as_owner) as store:
                assert len(await store.append(BUILD_27, [NewEvent("custom")])) == 1
        finally:
            await admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}".encode())
            await admin.execute(f"DROP ROLE {name}".encode())


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="Postgres cannot be reached"):
        await migrate("postgresql://postgres@/postgres?host=/nowhere")


async def test_a_store_without_a_schema_says_what_to_do(empty_database: str) -> None:
    store = PostgresStore(empty_database)
    with pytest.raises(CannotStart, match="no log in it") as refused:
        await store.open()
    assert "foldstream migrate" in refused.value.fix


def test_the_numbered_files_are_numbered_without_a_hole() -> None:
    assert [int(step.name[:4]) for step in numbered()] == list(range(1, len(numbered()) + 1))
