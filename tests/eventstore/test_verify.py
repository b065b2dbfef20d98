"""Verify: whatever somebody changes behind our back is found and named; what is well stays unsuspected."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from eventstore import NewEvent, StreamId
from eventstore.categories import BY_NAME
from eventstore.errors import CannotStart, NotFound
from eventstore.snapshots import projected
from eventstore.stores import whole
from eventstore.stores.bulk import load
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.snapshots import keep
from eventstore.upcast import current
from eventstore.verify import Report, verify
from tests.eventstore.logs import BUILD_27, f27
from tests.eventstore.test_archive import chained

OTHER = StreamId("build", "28")
Sql = AsyncConnection[Any]


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    """A superuser for whom no trigger fires."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        yield connection


@pytest.fixture
async def log(database: str) -> str:
    """Build 27 and two others, each with its state; the last one's is of an earlier version."""
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, f27())
        await store.append(OTHER, [NewEvent("plan_started", key="a"), NewEvent("custom", key="b")])
        await store.append(StreamId("build", "29"), f27())
    await fold(database)
    async with PostgresStore(database) as store:
        await store.append(StreamId("build", "29"), [NewEvent("custom")])
    return database


async def fold(database: str) -> None:
    """What the projector does."""
    async with whole.connected(database) as connection:
        async for page in whole.places(connection):
            async for place, found in whole.events(connection, page):
                category = BY_NAME[place.stream.category]
                at = category.fold(current(category, archived.event) for archived in found)
                await keep(connection, [projected(category, place.stream, at, found[-1].event.at)])


async def the_difference(database: str, *names: StreamId) -> str:
    report = await verify(database, list(names) or None)
    assert len(report.differences) == 1
    return str(report.differences[0])


async def test_a_log_that_is_well_is_said_to_be(log: str) -> None:
    assert await verify(log) == Report(streams=3, events=27, states=3)
    assert await verify(log, [BUILD_27]) == Report(streams=1, events=12, states=1)
    with pytest.raises(NotFound, match="no build-99"):
        await verify(log, [StreamId("build", "99")])


@pytest.mark.parametrize(
    ("tampering", "words"),
    [
        (
            """UPDATE events SET data = replace(data, 'message', 'massage') WHERE version = 6 AND sid = {27}""",
            "build-27: version 6 has the hash .*was changed",
        ),
        (
            "UPDATE events SET at = at + interval '1 microsecond' WHERE version = 1 AND sid = {27}",
            "build-27: version 1 ",
        ),
        ("UPDATE events SET request_id = 'x' WHERE version = 12 AND sid = {27}", "build-27: version 12 has the hash"),
        ("UPDATE events SET schema = 2 WHERE version = 12 AND sid = {27}", "build-27: version 12 has the hash"),
        ("UPDATE events SET key = 'c' WHERE version = 2 AND sid = {28}", "build-28: version 2 has the hash"),
        ("UPDATE events SET hash = sha256(hash) WHERE version = 2 AND sid = {28}", "build-28: version 2 has the hash"),
        (
            "DELETE FROM events WHERE version = 12 AND sid = {27}",
            "build-27: its row says that 12 is its last version, and version 11 is the last that is there",
        ),
        ("DELETE FROM events WHERE version = 5 AND sid = {27}", "build-27: version 6 comes where 5 is expected"),
        ("DELETE FROM events WHERE version = 1 AND sid = {27}", "build-27: version 2 comes where 1 is expected"),
        ("DELETE FROM events WHERE sid = {27}", "build-27: its row says that 12 .*no event is that is there"),
        (
            """UPDATE events a SET data = b.data, type = b.type, at = b.at, key = b.key, hash = b.hash FROM events b
               WHERE a.sid = {27} AND b.sid = {27} AND (a.version, b.version) IN ((5, 6), (6, 5))""",
            "build-27: version 5 has the hash",
        ),
        (
            """DELETE FROM events WHERE version = 5 AND sid = {27};
               UPDATE events SET version = version - 1 WHERE version > 5 AND sid = {27};
               UPDATE streams SET version = 11 WHERE sid = {27}; DELETE FROM states WHERE sid = {27}""",
            "build-27: version 5 has the hash",
        ),
        (
            """INSERT INTO events (sid, version, part, type, hash, data)
               VALUES ({27}, 13, 1, 'custom', sha256(''), '{{}}')""",
            "build-27: version 13 has the hash",
        ),
        ("UPDATE streams SET version = 13 WHERE sid = {27}", "build-27: its row says that 13 is its last version"),
        (
            "UPDATE streams SET version = 11 WHERE sid = {27}",
            "build-27: its row says that 11 is its last version, and version 12 is there",
        ),
        ("UPDATE streams SET id = '30' WHERE sid = {27}", "build-30: version 1 has the hash"),
        ("UPDATE streams SET floor = 3 WHERE sid = {27}", "build-27: .*only whole streams leave"),
        ("UPDATE streams SET tx = '3' WHERE sid = {27}", "build-27: its row says transaction 3"),
        (
            "UPDATE events SET tx = '3' WHERE version = 7 AND sid = {27}",
            "build-27: in the order of all streams version 7 does not come after",
        ),
        (
            "UPDATE states SET state = jsonb_set(state, '{{progress}}', '7') WHERE sid = {27}",
            "build-27: its stored state at version 12 has the progress 7, and its events make 100",
        ),
        (
            "UPDATE states SET state = state - 'tasks' WHERE sid = {27}",
            "build-27: its stored state cannot be read: this is not a stored state of build",
        ),
        ("UPDATE states SET status = 'failed' WHERE sid = {27}", "has the status label 'failed', .* make 'completed'"),
        ("UPDATE states SET project = 'p' WHERE sid = {27}", "has the project label 'p', and its events make None"),
        ("UPDATE states SET version = 11 WHERE sid = {27}", "build-27: its stored state at version 11 has the "),
        ("UPDATE states SET version = 13 WHERE sid = {27}", "build-27: a state of version 13 is stored"),
        ("UPDATE states SET born_at = now() WHERE sid = {27}", "build-27: .*has the time of birth"),
        ("UPDATE states SET updated_at = now() WHERE sid = {27}", "build-27: .*has the time of its last event"),
        (
            """UPDATE streams SET floor = version, sealed_at = now() WHERE sid = {28};
               DELETE FROM states WHERE sid = {28}""",
            "build-28: its events have left the log, and no state of version 2 is stored",
        ),
        (
            "DELETE FROM streams WHERE sid = {28}; DELETE FROM states WHERE sid = {28}",
            "version 1 of stream .* is there",
        ),
        (
            """INSERT INTO states
               SELECT 999, born_at, updated_at, version, fold, category, id, status, project, state FROM states
               WHERE sid = {28}""",
            "a state of stream 999 is stored, and that stream is not there",
        ),
        ("UPDATE states SET id = 'other' WHERE sid = {27}", "build-27: .*has the id 'other'"),
        ("ALTER TABLE events_1 DISABLE TRIGGER append_only", "events_1 has lost its guard"),
        ("DROP INDEX events_key", "events_1 has lost its unique index over the keys"),
    ],
)
async def test_tampering_is_found_and_named(log: str, sql: Sql, tampering: str, words: str) -> None:
    sids = dict(await (await sql.execute("SELECT id, sid FROM streams")).fetchall())
    for statement in tampering.format(*[None] * 27, sids["27"], sids["28"]).split(";"):  # {27} is the sid of build 27
        await sql.execute(statement.encode())
    report = await verify(log)
    assert re.search(words, "\n".join(map(str, report.differences)))
    assert len(report.differences) == (2 if "INDEX" in tampering else 1)  # the index of events, and of its partition


async def test_only_the_first_difference_of_each_run_is_named(log: str, sql: Sql) -> None:
    await sql.execute("UPDATE events SET data = '{\"n\":1}' WHERE version IN (2, 5)")
    report = await verify(log)
    assert [difference.stream for difference in report.differences] == ["build-27", "build-28", "build-29"]
    assert all("version 2 " in difference.words for difference in report.differences)
    assert await the_difference(log, OTHER) == str(report.differences[1])


async def test_repair_makes_states_anew_and_touches_no_event(log: str, sql: Sql) -> None:
    await sql.execute("UPDATE states SET state = '{}', status = 'x', version = 3")
    await sql.execute(
        "INSERT INTO states SELECT 999, born_at, updated_at, 1, 1, category, id, '', NULL, '{}' FROM states LIMIT 1"
    )
    await sql.execute(
        "UPDATE events SET type = 'x' WHERE version = 2 AND sid = (SELECT sid FROM streams WHERE id = '28')"
    )
    before = await (await sql.execute("SELECT * FROM events ORDER BY position")).fetchall()
    report = await verify(log, repair=True)
    assert (len(report.differences), report.repaired) == (4, 3)
    assert await (await sql.execute("SELECT * FROM events ORDER BY position")).fetchall() == before
    again = await verify(log)
    assert [str(found)[:32] for found in again.differences] == ["build-28: version 2 has the hash"]
    assert again.states == 2


async def test_a_state_that_is_missing_or_of_another_fold_is_no_difference(log: str, sql: Sql) -> None:
    await sql.execute("DELETE FROM states WHERE sid = (SELECT sid FROM streams WHERE id = '28')")
    await sql.execute("UPDATE states SET fold = 0, state = '{}' WHERE sid = (SELECT sid FROM streams WHERE id = '29')")
    assert await verify(log) == Report(streams=3, events=27, states=1, missing=1, unfolded=1)


async def test_repair_makes_states_that_are_missing(log: str, sql: Sql) -> None:
    before = await (await sql.execute("SELECT * FROM states ORDER BY sid")).fetchall()
    await sql.execute("DELETE FROM states")
    report = await verify(log, repair=True)
    assert (report.differences, report.missing, report.repaired) == ([], 3, 3)
    after = await (await sql.execute("SELECT * FROM states ORDER BY sid")).fetchall()
    assert after[:2] == before[:2], "the third one had been of an earlier version"
    assert await verify(log, repair=True) == Report(streams=3, events=27, states=3)


async def test_a_missing_state_that_was_made_hides_no_difference(log: str, sql: Sql) -> None:
    await sql.execute("DELETE FROM states WHERE sid = (SELECT sid FROM streams WHERE id = '28')")
    await sql.execute(
        "UPDATE events SET type = 'x' WHERE version = 5 AND sid = (SELECT sid FROM streams WHERE id = '27')"
    )
    report = await verify(log, repair=True)
    assert (len(report.differences), report.mended, report.made) == (1, 0, 1)


async def test_repair_leaves_alone_what_nobody_can_fold(log: str, sql: Sql) -> None:
    await sql.execute("SELECT append_event('weird-1', 'custom', '{}')")
    assert await verify(log, repair=True) == Report(streams=4, events=28, states=3, unfolded=1)
    await sql.execute(
        """INSERT INTO states SELECT s.sid, now(), now(), 7, 1, 'weird', '1', '', NULL, '{}' FROM streams s
           WHERE category = 'weird'"""
    )
    report = await verify(log, repair=True)
    assert (len(report.differences), report.repaired) == (1, 0)


async def test_repair_leaves_a_state_alone_that_was_written_meanwhile(log: str, sql: Sql) -> None:
    """The projector stores a newer one between the look and the repair: it would not store it again."""
    await sql.execute("UPDATE states SET status = 'x' WHERE sid = (SELECT sid FROM streams WHERE id = '27')")
    async with PostgresStore(log) as store:
        await store.append(BUILD_27, [NewEvent("custom")])
    projecting = await psycopg.AsyncConnection.connect(log)
    async with projecting, asyncio.TaskGroup() as tasks:
        await projecting.execute(
            "UPDATE states SET version = 13, status = 'newer' WHERE sid = (SELECT sid FROM streams WHERE id = '27')"
        )
        repairing = tasks.create_task(verify(log, [BUILD_27], repair=True))
        async with asyncio.timeout(20):
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM states%'"
            while not await (await sql.execute(waits.encode())).fetchall():
                await asyncio.sleep(0.01)
        await projecting.commit()
    report = repairing.result()
    assert (len(report.differences), report.repaired, report.moved) == (1, 0, 1)
    rows = await (await sql.execute("SELECT version, status FROM states WHERE id = '27'")).fetchall()
    assert rows == [(13, "newer")]


async def test_only_the_owner_repairs(log: str, sql: Sql) -> None:
    await sql.execute("CREATE ROLE verifier_of_the_test LOGIN IN ROLE foldstream_app")
    try:
        as_app = make_conninfo(log, user="verifier_of_the_test")
        assert (await verify(as_app)).differences == []
        with pytest.raises(CannotStart, match="not the owner"):
            await verify(as_app, repair=True)
        async with await psycopg.AsyncConnection.connect(as_app) as app:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await app.execute("DELETE FROM states")
    finally:
        await sql.execute("DROP ROLE verifier_of_the_test")


@pytest.mark.parametrize("lengths", [[400], [1, 1, 400, 1], [150] * 4, [0, 134, 1, 133, 133, 0, 1]])
async def test_a_page_ends_after_some_bytes(database: str, lengths: list[int]) -> None:
    """Events of 60 KB: 134 of them are a page, whichever streams they are of."""
    data = b'{"a":"%b"}' % (b"x" * 60_000)
    streams = [StreamId("build", f"{number:03d}") for number in range(len(lengths))]
    for stream, length in zip(streams, lengths, strict=True):
        await load(database, chained(stream, [data] * length))
    found: dict[StreamId, list[int]] = {}
    async with whole.connected(database) as connection:
        async for places in whole.places(connection):
            async for place, page in whole.events(connection, places):
                assert sum(len(archived.event.json) for archived in page) < whole.PAGE_BYTES + len(data)
                found.setdefault(place.stream, []).extend(archived.event.version for archived in page)
    assert found == {
        stream: list(range(1, length + 1)) for stream, length in zip(streams, lengths, strict=True) if length
    }


async def test_a_stream_that_grows_meanwhile_is_no_difference(database: str) -> None:
    streams = [StreamId("build", f"{n:03d}") for n in range(40)]
    await load(database, [archived for stream in streams for archived in chained(stream, [b"{}"] * 300)])
    async with PostgresStore(database) as store:

        async def grow(stream: StreamId) -> None:
            while True:
                await store.append(stream, [NewEvent("custom")] * 3)

        growing = [asyncio.create_task(grow(stream)) for stream in streams[::8]]
        try:
            for _ in range(3):
                report = await verify(database)
                assert report.differences == []
                assert report.events >= 12_000
        finally:
            for task in growing:
                task.cancel()
            await asyncio.gather(*growing, return_exceptions=True)
    assert (await verify(database)).events > 12_000


async def test_an_event_that_no_reader_can_take_is_a_difference(log: str, sql: Sql) -> None:
    await sql.execute("ALTER TABLE events DROP CONSTRAINT events_at")
    await sql.execute("UPDATE events SET at = 'infinity' WHERE key = 'b'")
    assert "build-2" in await the_difference(log)
    assert "cannot be read" in await the_difference(log, OTHER)


async def test_a_long_stream_is_checked_over_its_pages(database: str, sql: Sql) -> None:
    stream = StreamId("build", "long")
    await load(database, chained(stream, [b'{"a":1}'] * 11_000))
    await fold_long(database, stream)
    assert await verify(database) == Report(streams=1, events=11_000, states=1)
    await sql.execute("UPDATE events SET data = '{\"a\":2}' WHERE version = 10_001")
    assert (await the_difference(database)).startswith("build-long: version 10001 has the hash")


async def fold_long(database: str, stream: StreamId) -> None:
    """A state in the middle of a page."""
    category = BY_NAME["build"]
    async with whole.connected(database) as connection:
        place = await whole.place_of(connection, stream)
        assert place is not None
        events = [archived.event async for _, found in whole.events(connection, [place]) for archived in found][:7777]
        await keep(connection, [projected(category, stream, category.fold(events), events[-1].at)])
