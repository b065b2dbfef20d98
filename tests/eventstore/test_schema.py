"""schema.sql: append-only for everybody, the old documents' SQL as printed, and the plans that keep it fast."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from eventstore import NewEvent, StreamId
from eventstore.errors import Sealed
from eventstore.page import Span
from eventstore.shape import Field
from eventstore.stores import pages, statements
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BUILD_27, f27

ROOT = Path(__file__).parent.parent.parent
Sql = AsyncConnection[Any]
ANSWER = (b'{"id":', Field.VERSION, b',"data":', Field.DATA, b"}")


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    """The owner's connection."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(database) as opened:
        yield opened


async def rows(sql: Sql, query: str, *params: object) -> list[dict[str, Any]]:
    named = params[0] if len(params) == 1 and isinstance(params[0], dict) else None
    return await (await sql.execute(query.encode(), named or params or None)).fetchall()


async def plan(sql: Sql, query: str, *params: object) -> str:
    found = await rows(sql, f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}", *params)
    return "\n".join(row["QUERY PLAN"] for row in found)


@pytest.mark.req("K-04")
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET data = '{}'",
        "UPDATE events SET version = 9 WHERE false",
        "DELETE FROM events",
        "DELETE FROM events_1 WHERE version = 1",
        "TRUNCATE events",
        "TRUNCATE events_1",
        "INSERT INTO events SELECT * FROM events ON CONFLICT (part, sid, version) DO UPDATE SET data = '{}'",
        "MERGE INTO events e USING (SELECT 1) o ON true WHEN MATCHED THEN DELETE",
    ],
)
async def test_nobody_changes_what_was_recorded(sql: Sql, store: PostgresStore, change: str) -> None:
    log = await store.append(BUILD_27, [NewEvent("custom")])
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="append-only") as refused:
        await sql.execute(change.replace("SELECT * FROM", "OVERRIDING SYSTEM VALUE SELECT * FROM").encode())
    assert refused.value.diag.message_hint
    await sql.execute("SET ROLE foldstream_app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await sql.execute(change.replace("SELECT * FROM", "OVERRIDING SYSTEM VALUE SELECT * FROM").encode())
    assert await store.read(BUILD_27) == log


@pytest.mark.req("K-04")
@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO events (sid, version, part, type, data, hash) VALUES (1, 2, 1, 'custom', '{}', '')",
        "INSERT INTO events_1 (sid, version, part, type, data, hash) VALUES (1, 2, 1, 'custom', '{}', '')",
        "UPDATE streams SET version = 0",
        "DELETE FROM streams",
        "UPDATE meta SET epoch = gen_random_uuid()",
        "DELETE FROM schema_version",
        "SELECT nextval('events_position_seq')",
        "SELECT add_events_partition()",
        "DELETE FROM build_events",
        "UPDATE build_events SET event_type = 'x'",
    ],
)
async def test_the_application_has_one_way_in(sql: Sql, change: str) -> None:
    await sql.execute("SELECT append_event('build-27', 'custom', '{}')")
    await sql.execute("SET ROLE foldstream_app")
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        await sql.execute(change.encode())
    await sql.execute("SELECT append_event('build-27', 'custom', '{}')")


async def test_a_temporary_table_cannot_pose_as_ours(sql: Sql) -> None:
    await sql.execute("SET ROLE foldstream_app")
    await sql.execute("CREATE TEMP TABLE streams (sid bigint, category text, id text, part int, version int)")
    await sql.execute("SELECT append_event('build-27', 'custom', '{}')")
    [head] = await rows(sql, "SELECT version FROM public.streams")
    assert head == {"version": 1}


@pytest.mark.req("K-04")
async def test_a_sealed_stream_refuses_appends_and_repeats_its_answers(sql: Sql, store: PostgresStore) -> None:
    first = await store.append(BUILD_27, [NewEvent("custom", key="k")])
    await sql.execute("UPDATE streams SET sealed_at = now()")
    with pytest.raises(Sealed, match="build-27 is sealed at version 1"):
        await store.append(BUILD_27, [NewEvent("custom")])
    assert await store.append(BUILD_27, [NewEvent("custom", key="k")]) == first


async def test_the_store_acts_as_the_application(store: PostgresStore) -> None:
    seen: list[object] = []

    async def also(connection: Sql) -> None:
        seen.append(await (await connection.execute("SELECT current_user::text")).fetchone())

    await store.append(BUILD_27, [NewEvent("custom")], also=also)
    assert seen == [("foldstream_app",)]


@pytest.mark.req("S1-05", "S1-10", "S1-41", "S2-48", "S1-73")
@pytest.mark.parametrize("view", ["build_events", "project_build_events"])
async def test_build_27_is_read_by_the_documents_sql_as_printed(sql: Sql, store: PostgresStore, view: str) -> None:
    await store.append(BUILD_27, f27())
    await store.append(StreamId("build", "28"), [NewEvent("plan_started")])
    printed = f"SELECT * FROM {view} WHERE build_id = $1 AND id > $2 ORDER BY id"
    found = await rows(sql, printed.replace("$1", "%s").replace("$2", "%s"), "27", 5)
    assert [list(row) for row in found] == [["id", "build_id", "event_type", "event_data", "created_at"]] * 7
    answers = await store.read(BUILD_27, 5)
    assert [(row["id"], row["event_type"], row["event_data"], row["created_at"]) for row in found] == [
        (event.version, event.type, event.data, event.at) for event in answers
    ]
    assert found[0]["event_data"]["taskName"] == "Create HTML Test Page"
    assert found[-1]["created_at"] == datetime.fromisoformat("2025-07-22T07:15:20.107Z")


@pytest.mark.req("S1-08")
async def test_the_documents_insert_as_printed_is_an_append(sql: Sql, store: PostgresStore) -> None:
    printed = "INSERT INTO build_events (build_id, event_type, event_data) VALUES (%s, %s, %s) RETURNING id"
    await sql.execute("SET ROLE foldstream_app")
    for version in (1, 2):
        assert await rows(sql, printed, "27", "custom", '{"a": 1}') == [{"id": version}]
    assert [(event.version, event.data) for event in await store.read(BUILD_27)] == [(1, {"a": 1}), (2, {"a": 1})]


async def test_any_program_appends_in_its_own_transaction(sql: Sql, store: PostgresStore) -> None:
    async with sql.transaction(force_rollback=True):
        await sql.execute("SELECT append_event('build-27', 'custom', '{}')")
    assert await store.read(BUILD_27) == []
    async with sql.transaction():
        [first] = await rows(sql, "SELECT append_event('build-a-b', 'custom', '{\"n\": 1}', 'k', 0) AS version")
        [again] = await rows(sql, "SELECT append_event('build-a-b', 'custom', '{\"n\": 1}', 'k', 0) AS version")
    assert first == again == {"version": 1}
    [event] = await store.read(StreamId("build", "a-b"))
    assert event.json == b'{"n": 1}', "the bytes as they were accepted"
    with pytest.raises(psycopg.errors.RaiseException, match="refused: conflict"):
        await sql.execute("SELECT append_event('build-a-b', 'custom', '{}', NULL, 0)")


@pytest.mark.parametrize(
    ("stream", "type_", "data", "key"),
    [
        ("build-27", "custom", "[]", None),
        ("build-27", "custom", "not json", None),
        ("build-27", "custom", '{"a": "\\u0000"}', None),
        ("build-27", "custom", '{"a": "\\ud800"}', None),
        ("build-27", "a\nid: 9", "{}", None),
        ("build-27", "", "{}", None),
        ("build-27", "a" * 51, "{}", None),
        ("build-27", "custom", "{}", "k" * 201),
        ("build-27", "custom", "{}", "a b"),
        ("build-", "custom", "{}", None),
        ("build-a/b", "custom", "{}", None),
        ("Build-27", "custom", "{}", None),
        ("build-" + "a" * 129, "custom", "{}", None),
    ],
)
async def test_sql_lets_nothing_in_that_a_reader_could_stumble_over(
    sql: Sql, stream: str, type_: str, data: str, key: str | None
) -> None:
    with pytest.raises((psycopg.DataError, psycopg.IntegrityError)):
        await sql.execute("SELECT append_event(%s, %s, %s, %s)", (stream, type_, data, key))
    assert await rows(sql, "SELECT * FROM streams") == []


def reading_statements(frame: str) -> list[str]:
    return [
        statement
        for types, backward in product((False, True), repeat=2)
        for statement in (
            pages.read(types=types, backward=backward),
            pages.render(frame, types=types, backward=backward),
        )
    ]


@pytest.mark.parametrize("at", ["infinity", "-infinity", "0001-01-01 00:00 BC", "10000-01-01 00:00Z"])
async def test_sql_records_no_time_that_a_reader_cannot_hold(sql: Sql, store: PostgresStore, at: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await sql.execute("SELECT append_event('build-27', 'custom', p_at => %s)", (at,))
    await sql.execute("SELECT append_event('build-27', 'custom', p_at => '9999-12-31 23:59:59.999999Z')")
    assert [event.version for event in await store.read(BUILD_27)] == [1]


@pytest.mark.req("S0-35", "S1-07", "S1-46")
async def test_a_page_is_one_range_of_the_primary_key(sql: Sql, store: PostgresStore) -> None:
    for n in range(20):
        await store.append(StreamId("build", str(n)), [NewEvent("custom")] * 200)
    asked = pages.asked(StreamId("build", "7"), Span(150, 10, types=["custom"]))
    frame, literals = pages.frame(ANSWER)
    ours = reading_statements(frame)
    seeds = "SELECT * FROM build_events WHERE build_id = %(id)s AND id > 190 ORDER BY id"
    for statement in (*ours, seeds):
        shown = await plan(sql, statement, {**asked, **literals})
        assert re.search(r"Index Scan( Backward)? using events_1_pkey on events_1 \w+ \(actual rows=10", shown), shown
        assert "WindowAgg" not in shown or "Sort" not in shown, "what is written by the server is in order already"
        assert re.search(r"Index (Only )?Scan using streams_name", shown), shown
        assert "Seq Scan" not in shown


async def test_a_plan_made_for_any_stream_is_one_range_too(sql: Sql, store: PostgresStore) -> None:
    """After some executions a session plans without looking at the parameters; and here on tables that look empty."""
    frame, literals = pages.frame(ANSWER)
    names = [*pages.asked(BUILD_27, Span()), *literals]
    await sql.execute("SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)")
    for statement in reading_statements(frame):
        numbered = re.sub(r"%\((\w+)\)s", lambda name: f"${names.index(name[1]) + 1}", statement)
        found = await rows(sql, f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {numbered}")
        shown = "\n".join(row["QUERY PLAN"] for row in found)
        assert re.search(r"Index Scan( Backward)? using events_1_pkey on events_1 ", shown), shown
        assert re.search(r"Index Cond: .*part = s.part.* AND .*sid = s.sid.* AND .*version > .*version < ", shown)
        assert "Seq Scan" not in shown


async def test_every_look_up_uses_an_index(sql: Sql, store: PostgresStore) -> None:
    for n in range(300):
        await store.append(StreamId("build", str(n)), [NewEvent("custom", key="k")] * 1)
    await sql.execute("ANALYZE")
    shown = await plan(sql, statements.READ_ALL, 0, 0, 5)
    assert re.search(r"Index Scan using events_1_tx_position_idx on events_1\b", shown), shown
    recent = {"category": "build", "before": "150", "limit": 5}
    found = await (
        await sql.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statements.RECENT}".encode(), recent)
    ).fetchall()
    shown = "\n".join(row["QUERY PLAN"] for row in found)
    assert re.search(r"Index Scan (Backward )?using streams_\w+ on streams \(actual rows=5", shown), shown
    assert "Seq Scan" not in shown


async def test_append_looks_up_by_index_however_the_tables_have_grown(sql: Sql) -> None:
    """A session plans append_events() once, perhaps on empty tables. That plan must not read whole tables later."""
    await sql.execute("SET ROLE foldstream_app")
    await sql.execute("SELECT append_event('build-first', 'custom', '{}', 'k')")
    for n in range(400):
        await sql.execute("SELECT append_event(%s, 'custom', '{}', 'k')", (f"build-{n}",))
    await sql.execute("RESET ROLE")
    before = await reads(sql)
    await sql.execute("SET ROLE foldstream_app")
    await sql.execute("SELECT append_event('build-200', 'custom', '{}', 'j')")
    await sql.execute("RESET ROLE")
    after = await reads(sql)
    assert after["scans"] == before["scans"], "no sequential scan of streams or events"
    assert after["fetched"] - before["fetched"] < 20, "a handful of rows by index, not all of them"


async def reads(sql: Sql) -> dict[str, Any]:
    await sql.execute("SELECT pg_stat_force_next_flush()")
    [found] = await rows(
        sql,
        """SELECT sum(seq_scan)::int AS scans, sum(idx_tup_read)::int AS fetched
           FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
           WHERE t.relname IN ('streams', 'events_1')""",
    )
    return found


async def test_a_stream_lives_in_the_partition_of_its_birth(sql: Sql, store: PostgresStore) -> None:
    old, young = StreamId("build", "old"), StreamId("build", "young")
    await store.append(old, [NewEvent("custom")])
    await sql.execute("SELECT add_events_partition()")
    await store.append(young, [NewEvent("custom", key="k")])
    await store.append(old, [NewEvent("custom")])
    await store.append(young, [NewEvent("custom", key="k"), NewEvent("custom")])
    parts = await rows(sql, "SELECT tableoid::regclass::text AS part, count(*)::int FROM events GROUP BY 1 ORDER BY 1")
    assert parts == [{"part": "events_1", "count": 2}, {"part": "events_2", "count": 2}]
    assert [len(await store.read(stream)) for stream in (old, young)] == [2, 2]
    shown = await plan(sql, pages.read(types=False, backward=False), pages.asked(old, Span(limit=10)))
    assert "(never executed)" in shown
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="append-only"):
        await sql.execute("DELETE FROM events_2")
    await sql.execute("ALTER TABLE events DETACH PARTITION events_1")
    assert [len(await store.read(stream)) for stream in (old, young)] == [0, 2]


async def test_every_column_and_index_of_schema_sql_has_a_comment() -> None:
    schema = (ROOT / "schema.sql").read_text()
    tables = re.findall(r"CREATE TABLE \w+ \(\n(.*?)\n\)", schema, re.DOTALL)
    columns = [line for table in tables for line in table.splitlines() if re.match(r"    [a-z_]+ +\w+", line)]
    indexes = re.findall(r"CREATE (?:UNIQUE )?INDEX .*", schema)
    assert len(columns) > 25
    assert len(indexes) == 10
    assert [line for line in columns + indexes if "--" not in line] == []
    for kind, name in re.findall(r"^CREATE (TABLE|VIEW|FUNCTION) (\w+)", schema, re.MULTILINE):
        assert f"COMMENT ON {kind} {name} IS" in schema, name
