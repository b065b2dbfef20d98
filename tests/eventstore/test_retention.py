"""Retention: what is old leaves as a whole, what is needed stays, and nobody who works meanwhile notices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import NewEvent, StreamId
from eventstore.archive import Archived, line
from eventstore.errors import CannotStart, Sealed, Unavailable
from eventstore.retention import Part, Policy, gc
from eventstore.states import States
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.snapshots import PostgresSnapshots
from eventstore.verify import verify
from tests.eventstore.logs import BUILD_27, f27
from tests.eventstore.test_archive import exported

Sql = AsyncConnection[Any]
OLD, YOUNG, LATE = (StreamId("build", id_) for id_ in ("old", "young", "late"))
MONTH = Policy(days=30)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(database) as opened:
        yield opened


class Shelf:
    """A list."""

    def __init__(self) -> None:
        self.kept: list[Archived] = []

    async def put(self, part: int, events: AsyncIterator[Archived]) -> None:
        self.kept += [archived async for archived in events]

    def has(self, part: int) -> bool:
        return bool(self.kept)


class FullDisk:
    """Takes nothing. has: an earlier run filled it."""

    def __init__(self, *, has: bool = False) -> None:
        self._has = has

    async def put(self, part: int, events: AsyncIterator[Archived]) -> None:
        raise RuntimeError("the disk is full")

    def has(self, part: int) -> bool:
        return self._has


async def one(sql: Sql, query: str, *params: object) -> Any:
    row = await (await sql.execute(query.encode(), params or None)).fetchone()
    return row[0] if row and len(row) == 1 else row


async def age(sql: Sql, days: int, *streams: StreamId) -> None:
    """As if the last append had been so long ago."""
    await sql.execute(
        "UPDATE streams SET updated_at = now() - make_interval(days => %s) WHERE id = ANY (%s)",
        (days, [stream.id for stream in streams]),
    )


async def two_months(sql: Sql, store: PostgresStore) -> None:
    """Two streams of long ago in the first partition, one of today in the second."""
    await store.append(BUILD_27, f27())
    await store.append(OLD, [NewEvent("custom", {"n": 1}, key="k")])
    await sql.execute("SELECT add_events_partition()")
    await store.append(YOUNG, [NewEvent("plan_started")])
    await age(sql, 40, BUILD_27, OLD)


async def tables(sql: Sql) -> list[str]:
    rows = await sql.execute(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE relname ~ '^events_\\d+$' AND relkind = 'r' ORDER BY 1"
    )
    return [row[0] for row in await rows.fetchall()]


# partitions -----------------------------------------------------------------------------------------------------------


async def test_streams_are_born_into_a_new_partition_once_a_month(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    assert (await gc(database, Policy())).rotated is None
    await sql.execute("UPDATE partitions SET born_at = now() - interval '31 days'")
    assert (await gc(database, Policy())).rotated is None, "an empty one serves on"
    await store.append(OLD, [NewEvent("custom")])
    assert (await gc(database, Policy(), dry_run=True)).rotated == 0
    assert (await gc(database, Policy())).rotated == 2
    assert (await gc(database, Policy())).rotated is None
    await store.append(YOUNG, [NewEvent("custom")])
    await store.append(OLD, [NewEvent("custom")])
    found = await (
        await sql.execute("SELECT s.id, e.part FROM events e JOIN streams s USING (sid) ORDER BY 1, 2")
    ).fetchall()
    assert found == [("old", 1), ("old", 1), ("young", 2)]


async def test_a_partition_that_is_full_is_followed_by_another(database: str, sql: Sql, store: PostgresStore) -> None:
    await store.append(OLD, [NewEvent("custom")] * 100)
    await sql.execute("ANALYZE events_1")
    assert (await gc(database, Policy(partition_events=100))).rotated is None
    assert (await gc(database, Policy(partition_events=99))).rotated == 2


async def test_a_change_of_partitions_that_gets_no_lock_gives_up_and_says_so(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await store.append(OLD, [NewEvent("custom")])
    await sql.execute("UPDATE partitions SET born_at = now() - interval '31 days'")
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute("LOCK events IN SHARE UPDATE EXCLUSIVE MODE")
        report = await gc(database, Policy(), patience=0.2)
        assert report.failed
        assert "old partition" in report.trouble
        assert (await store.append(OLD, [NewEvent("custom")]))[0].version == 2
    assert (await gc(database, Policy())).rotated == 2


# retention ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("K-04", "S1-72")
async def test_without_retention_nothing_is_sealed_and_nothing_leaves(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    report = await gc(database, Policy())
    assert (report.sealed, report.partitions) == (0, [])
    assert len(await store.read(BUILD_27)) == 12


async def test_a_silent_partition_leaves_and_everything_else_is_as_before(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    young = await store.read(YOUNG)
    lines = await exported(database)
    before = await States(store, PostgresSnapshots(store.connections)).at(BUILD_27)
    shelf = Shelf()
    report = await gc(database, MONTH, shelf=shelf)
    assert report.partitions == [Part(1, 2, 13, "dropped")]
    assert report.sealed == 2
    assert sorted(map(line, shelf.kept)) == sorted(text for text in lines if b"young" not in text)
    assert await tables(sql) == ["events_2"]
    assert await one(sql, "SELECT count(*) FROM partitions WHERE dropped_at IS NOT NULL AND part = 1") == 1
    assert await store.read(YOUNG) == young
    assert await store.heads([BUILD_27, OLD, YOUNG]) == {BUILD_27: 12, OLD: 1, YOUNG: 1}
    assert await store.read(BUILD_27) == []
    assert await States(store, PostgresSnapshots(store.connections)).at(BUILD_27) == before
    assert (before.version, before.state.status) == (12, "completed")
    for events in ([NewEvent("custom")], [NewEvent("custom", {"n": 1}, key="k")]):
        with pytest.raises(Sealed, match="build-old is sealed at version 1"):
            await store.append(OLD, events)
    assert (await store.append(YOUNG, [NewEvent("custom")]))[0].version == 2
    assert (await gc(database, MONTH)).partitions == [], "there is nothing left to do"
    found = await verify(database)
    assert (found.differences, found.gone, found.states) == ([], 2, 2)


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    report = await gc(database, MONTH, dry_run=True)
    assert report.partitions == [Part(1, 2, 13, "would be dropped")]
    assert report.sealed == 2
    assert await one(sql, "SELECT count(*) FROM streams WHERE sealed_at IS NOT NULL OR floor > 0") == 0
    assert await one(sql, "SELECT count(*) FROM states") == 0
    assert await tables(sql) == ["events_1", "events_2"]


async def test_a_partition_stays_while_one_of_its_streams_is_young(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    await store.append(OLD, [NewEvent("custom")])
    report = await gc(database, MONTH)
    assert report.sealed == 1
    assert report.partitions == [Part(1, 2, 14, "kept", "build-old is open or younger than 30 days")]
    assert len(await store.read(BUILD_27)) == 12
    with pytest.raises(Sealed):
        await store.append(BUILD_27, [NewEvent("custom")])


async def test_the_birth_partition_never_leaves(database: str, sql: Sql, store: PostgresStore) -> None:
    await store.append(OLD, [NewEvent("custom")])
    await age(sql, 40, OLD)
    report = await gc(database, MONTH)
    assert (report.sealed, report.partitions) == (1, [])
    assert len(await store.read(OLD)) == 1


async def test_a_partition_stays_until_every_follower_has_read_it(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    await sql.execute("INSERT INTO followers (name) VALUES ('webhooks'), ('projector')")
    [part] = (await gc(database, MONTH)).partitions
    assert part.did == "kept"
    assert part.why.startswith("the follower projector has not read")
    await sql.execute(
        "UPDATE followers SET (tx, position) = (SELECT tx, position FROM events_1 ORDER BY 1 DESC, 2 DESC LIMIT 1)"
    )
    [part] = (await gc(database, MONTH)).partitions
    assert part.did == "dropped"


@pytest.mark.parametrize("damage", ["DELETE FROM events WHERE version = 12", "DELETE FROM events WHERE version = 5"])
async def test_a_partition_that_is_damaged_stays(database: str, sql: Sql, store: PostgresStore, damage: str) -> None:
    await two_months(sql, store)
    await sql.execute("SET session_replication_role = replica")
    await sql.execute(damage.encode())
    [part] = (await gc(database, MONTH)).partitions
    assert part.did == "kept"
    assert re.match("(the|a) state (of|between) build-27 .*cannot be kept", part.why)
    await sql.execute(
        "INSERT INTO states SELECT sid, now(), now(), 12, 1, 'build', id, '', NULL, '{}' FROM streams WHERE id = '27'"
    )
    [part] = (await gc(database, MONTH, shelf=Shelf())).partitions
    assert part.did == "kept"
    assert re.match("1 events are missing between build-27 and|build-27: version 6 comes where 5 is expected", part.why)


async def test_streams_that_nobody_can_fold_leave_too(database: str, sql: Sql, store: PostgresStore) -> None:
    await sql.execute("SELECT append_event('unknown-old', 'custom')")
    await sql.execute("SELECT add_events_partition()")
    await age(sql, 40, OLD)
    [part] = (await gc(database, MONTH)).partitions
    assert part == Part(1, 1, 1, "dropped")
    assert (await verify(database)).differences == []


async def test_a_stream_without_events_is_born_anew_elsewhere(database: str, sql: Sql, store: PostgresStore) -> None:
    await two_months(sql, store)
    await sql.execute("INSERT INTO streams (part, category, id) VALUES (1, 'build', 'late')")
    [part] = (await gc(database, MONTH)).partitions
    assert part.did == "dropped"
    assert (await store.append(LATE, [NewEvent("custom")]))[0].version == 1


async def test_only_one_works_at_a_time_and_only_the_owner(database: str, sql: Sql) -> None:
    await sql.execute("SELECT pg_advisory_lock(6775585)")
    with pytest.raises(CannotStart, match="another"):
        await gc(database, MONTH)
    await sql.execute("SELECT pg_advisory_unlock_all()")
    await sql.execute("CREATE ROLE gc_of_the_test LOGIN IN ROLE foldstream_app")
    try:
        with pytest.raises(CannotStart, match="not the owner"):
            await gc(database.replace("postgres@", "gc_of_the_test@"), MONTH)
    finally:
        await sql.execute("DROP ROLE gc_of_the_test")


# stopped in the middle ------------------------------------------------------------------------------------------------

SEALED = "UPDATE streams SET sealed_at = now() WHERE part = 1"
FLOORED = f"{SEALED}; UPDATE streams SET floor = version WHERE part = 1"
DETACHED = f"{FLOORED}; ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY"
DROPPED = f"{DETACHED}; DROP TABLE events_1"


@pytest.mark.parametrize(
    "stopped", [SEALED, FLOORED, DETACHED, DROPPED], ids=["sealed", "floored", "detached", "dropped"]
)
async def test_a_run_that_was_stopped_is_gone_on_with(
    database: str, sql: Sql, store: PostgresStore, stopped: str
) -> None:
    await two_months(sql, store)
    before = await States(store, PostgresSnapshots(store.connections)).at(BUILD_27)
    with pytest.raises(RuntimeError):  # states are stored when the export begins
        await gc(database, MONTH, shelf=FullDisk())
    assert await one(sql, "SELECT count(*) FROM states") == 2
    assert await one(sql, "SELECT max(floor) FROM streams") == 0
    for statement in stopped.split("; "):
        await sql.execute(statement.encode())
    assert (await gc(database, MONTH, dry_run=True)).partitions[0].did == "would be dropped"
    report = await gc(database, MONTH)
    assert [part.did for part in report.partitions] == ["dropped"]
    assert await tables(sql) == ["events_2"]
    assert await States(store, PostgresSnapshots(store.connections)).at(BUILD_27) == before
    assert (await gc(database, MONTH)).partitions == []


async def test_what_was_tampered_with_is_not_buried_with_the_evidence(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("UPDATE events SET data = '{\"n\": 99}' WHERE part = 1 AND version = 2")
    [part] = (await gc(database, MONTH, shelf=Shelf())).partitions
    assert part.did == "kept"
    assert "version 2 has the hash" in part.why


async def test_what_was_detached_without_an_export_stays_while_one_is_asked_for(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    with pytest.raises(RuntimeError):
        await gc(database, MONTH, shelf=FullDisk())
    for statement in DETACHED.split("; "):
        await sql.execute(statement.encode())
    [part] = (await gc(database, MONTH, shelf=FullDisk())).partitions
    assert part.did == "kept"
    [part] = (await gc(database, MONTH, shelf=FullDisk(has=True))).partitions
    assert part.did == "dropped"


async def test_an_export_can_be_made_again_after_the_floors_are_set(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    for statement in FLOORED.split("; "):
        await sql.execute(statement.encode())
    shelf = Shelf()
    await gc(database, MONTH, shelf=shelf)
    assert len(shelf.kept) == 13


async def test_a_detach_that_waits_for_a_reader_is_finished_later(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    await two_months(sql, store)
    async with await psycopg.AsyncConnection.connect(database) as reader:
        await reader.execute("SELECT count(*) FROM events")
        report = await gc(database, MONTH, patience=0.2)
        assert [part.did for part in report.partitions] == ["failed"]
        assert report.failed
        assert (await store.append(YOUNG, [NewEvent("custom")]))[0].version == 2
        assert len(await store.read(YOUNG)) == 2
        assert await one(sql, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
    report = await gc(database, MONTH)
    assert [part.did for part in report.partitions] == ["dropped"]
    assert await tables(sql) == ["events_2"]


async def test_a_stream_that_is_born_into_a_partition_at_the_last_moment_brings_it_back(
    database: str, sql: Sql, store: PostgresStore
) -> None:
    """Its transaction began before the birth partition was changed, and commits after all streams were looked at."""
    await store.append(OLD, [NewEvent("custom")])
    await age(sql, 40, OLD)
    async with await psycopg.AsyncConnection.connect(database) as slow:
        await slow.execute("SELECT append_event('build-late', 'custom')")
        await sql.execute("SELECT add_events_partition()")
        working = asyncio.create_task(gc(database, MONTH))
        while not await one(sql, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"):
            assert not working.done()
            await asyncio.sleep(0.01)
    [part] = (await working).partitions
    assert (part.did, part.why) == ("kept", "a stream was born into it")
    assert [len(await store.read(stream)) for stream in (OLD, LATE)] == [1, 1]
    assert (await store.append(LATE, [NewEvent("custom")]))[0].version == 2
    assert (await verify(database)).differences == []


WAITS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'foldstream gc' AND wait_event_type = 'Lock'
"""
KILL = WAITS.replace("count(*)", "count(pg_terminate_backend(pid))")


async def test_a_run_that_is_killed_at_any_step_is_gone_on_with(database: str, sql: Sql, store: PostgresStore) -> None:
    await two_months(sql, store)
    before = await States(store, PostgresSnapshots(store.connections)).at(BUILD_27)
    for obstacle in (
        "LOCK states IN SHARE MODE",
        "SELECT FROM streams WHERE id = '27' FOR UPDATE",  # its floor is to be set
        "SELECT count(*) FROM events",  # the detach waits for readers
        "SELECT FROM partitions WHERE part = 1 FOR UPDATE",  # after the drop, in its transaction
    ):
        async with await psycopg.AsyncConnection.connect(database) as other:
            await other.execute(obstacle.encode())
            working = asyncio.create_task(gc(database, MONTH))
            while not await one(sql, WAITS):
                assert not working.done()
                await asyncio.sleep(0.01)
            assert await one(sql, KILL) == 1
            with pytest.raises(Unavailable):
                await working
        assert (await store.append(YOUNG, [NewEvent("custom")]))[0].version > 1
    assert await tables(sql) == ["events_1", "events_2"]
    assert [part.did for part in (await gc(database, MONTH)).partitions] == ["dropped"]
    assert await tables(sql) == ["events_2"]
    assert await States(store, PostgresSnapshots(store.connections)).at(BUILD_27) == before
    found = await verify(database)
    assert (found.differences, found.gone, found.states) == ([], 2, 2)


async def test_appends_and_reads_go_on_meanwhile(database: str, sql: Sql, store: PostgresStore) -> None:
    old = [StreamId("build", f"old-{n}") for n in range(50)]
    for stream in old:
        await store.append(stream, f27())
    await sql.execute("SELECT add_events_partition()")
    await age(sql, 40, *old)
    streams = [StreamId("build", f"live-{n}") for n in range(8)]
    done = asyncio.Event()
    counts = dict.fromkeys(streams, 0)

    async def work(stream: StreamId) -> None:
        while not done.is_set() or counts[stream] < 5:
            [event] = await store.append(stream, [NewEvent("custom")])
            counts[stream] += 1
            assert event.version == counts[stream]
            assert len(await store.read(stream, event.version - 1)) == 1

    working = [asyncio.create_task(work(stream)) for stream in streams]
    while min(counts.values()) < 5:
        await asyncio.sleep(0.01)
    reports = []
    for _ in range(3):
        reports.append(await gc(database, Policy(days=30, partition_events=1)))
        await sql.execute("ANALYZE")
    done.set()
    await asyncio.gather(*working)
    assert [part.did for part in reports[0].partitions] == ["dropped"]
    assert any(report.rotated for report in reports)
    assert (await verify(database)).differences == []
