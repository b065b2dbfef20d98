"""States: exact at every moment, whatever the snapshots say, and as of any version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from eventstore import BY_NAME, At, NewEvent, StreamId
from eventstore.cache import OVERHEAD, Cache
from eventstore.errors import Gone, NotFound
from eventstore.snapshots import LAST, NEAR, Query
from eventstore.states import States, folded
from eventstore.store import PAGE
from eventstore.stores.memory import MemoryStore
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BUILD_27, f27
from tests.projection import AnySnapshots, AnyStore, projected, snapshots_of

BUILD = BY_NAME["build"]


@pytest.fixture(params=["memory", "postgres"])
def dsn(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("database")) if request.param == "postgres" else None


@pytest.fixture
async def store(dsn: str | None) -> AsyncIterator[AnyStore]:
    if dsn is None:
        yield MemoryStore()
    else:
        async with PostgresStore(dsn) as opened:
            yield opened


@pytest.fixture
def snapshots(store: AnyStore) -> AnySnapshots:
    return snapshots_of(store)


async def keep(store: AnyStore, snapshots: AnySnapshots, stream: StreamId, version: int) -> None:
    row = projected(await store.read(stream, limit=version))
    if isinstance(store, PostgresStore):
        async with store.connections.take() as connection:
            await snapshots.write([row], connection)
    else:
        await snapshots.write([row], None)


async def test_a_status_is_exact_with_and_without_a_snapshot(store: AnyStore, snapshots: AnySnapshots) -> None:
    events = await store.append(BUILD_27, f27())
    for version in (None, 1, 7, 12):
        if version is not None:
            await keep(store, snapshots, BUILD_27, version)
        expected = folded(BUILD, events, At(BUILD.fold.initial, 0))
        assert await States(store, snapshots).at(BUILD_27) == expected == await States(store).at(BUILD_27)


async def test_a_status_is_exact_again_after_each_append(store: AnyStore, snapshots: AnySnapshots) -> None:
    states = States(store, snapshots)
    assert (await states.at(BUILD_27)).version == 0
    for number, event in enumerate(f27(), 1):
        await store.append(BUILD_27, [event])
        if number == 5:
            await keep(store, snapshots, BUILD_27, 3)
        assert await states.at(BUILD_27) == await States(store).at(BUILD_27)


async def test_a_status_after_a_long_absence_begins_at_the_snapshot(store: AnyStore, snapshots: AnySnapshots) -> None:
    states = States(store, snapshots)
    await store.append(BUILD_27, [NewEvent("custom")])
    await states.at(BUILD_27)
    for _ in range(3):
        await store.append(BUILD_27, [NewEvent("custom")] * NEAR)
    await keep(store, snapshots, BUILD_27, 290)
    assert await states.at(BUILD_27) == await States(store).at(BUILD_27)


async def test_a_status_of_more_than_a_page_behind_its_snapshot(store: AnyStore, snapshots: AnySnapshots) -> None:
    for _ in range(25):
        await store.append(BUILD_27, [NewEvent("custom")] * 100)
    await keep(store, snapshots, BUILD_27, 10)
    at = await States(store, snapshots).at(BUILD_27)
    assert (at.version, at.state.events) == (2500, 2500)
    assert (await States(store, snapshots).at(BUILD_27, PAGE + 10)).state.events == PAGE + 10


@pytest.mark.parametrize("kept", [None, 4, 12])
async def test_as_of_a_version_is_what_the_events_up_to_it_fold_to(
    store: AnyStore, snapshots: AnySnapshots, kept: int | None
) -> None:
    events = await store.append(BUILD_27, f27())
    if kept is not None:
        await keep(store, snapshots, BUILD_27, kept)
    states = States(store, snapshots)
    for version in (12, 3, 4, 5, 1, 12):
        expected = folded(BUILD, events[:version], At(BUILD.fold.initial, 0))
        assert await states.at(BUILD_27, version) == expected
    assert (await states.at(BUILD_27)).version == 12, "an old state is not taken for the newest"


async def test_as_of_a_version_that_is_not_there_names_those_that_are(store: AnyStore, snapshots: AnySnapshots) -> None:
    await store.append(BUILD_27, f27())
    states = States(store, snapshots)
    for version in (13, LAST, 2**53):
        with pytest.raises(NotFound, match="build-27 has come to version 12"):
            await states.at(BUILD_27, version)
    with pytest.raises(NotFound, match="build-28 has no events"):
        await states.at(StreamId("build", "28"), 1)


async def test_a_page_is_exact_though_the_snapshots_are_old(store: AnyStore, snapshots: AnySnapshots) -> None:
    names = [StreamId("build", str(number)) for number in range(12)]
    for number, stream in enumerate(names):
        await store.append(stream, f27()[:3])
        if number % 2:
            await keep(store, snapshots, stream, 3)
            await store.append(stream, f27()[3 : 4 + number % 5])
    page = await States(store, snapshots).page(Query("build", limit=5))
    assert page.next == names[7]
    assert [stream for stream, _ in page.runs] == names[:6:-1]
    for stream, at in page.runs:
        assert at == await States(store).at(stream)
    rest = await States(store, snapshots).page(Query("build", limit=50, before=page.next))
    assert [stream for stream, _ in rest.runs] == names[6::-1]
    assert rest.next is None


async def test_a_line_that_has_left_its_status_meanwhile_is_left_out(store: AnyStore, snapshots: AnySnapshots) -> None:
    for id_ in ("a", "b"):
        await store.append(StreamId("build", id_), [NewEvent("plan_started")])
        await keep(store, snapshots, StreamId("build", id_), 1)
    await store.append(StreamId("build", "b"), [NewEvent("build_failed", {"error": "x"})])
    page = await States(store, snapshots).page(Query("build", status="planning", limit=2))
    assert [stream.id for stream, _ in page.runs] == ["a"]
    assert page.next == StreamId("build", "a"), "short, and perhaps not the last"


async def test_a_page_behind_a_run_that_does_not_exist_is_refused(store: AnyStore, snapshots: AnySnapshots) -> None:
    with pytest.raises(NotFound, match="no run build-x"):
        await States(store, snapshots).page(Query("build", before=StreamId("build", "x")))


@pytest.mark.parametrize("dsn", ["postgres"], indirect=True)
@pytest.mark.parametrize("broken", ['{"no": "build"}', "[]", '"text"'])
async def test_a_snapshot_that_cannot_be_read_is_passed_by(
    store: AnyStore, snapshots: AnySnapshots, database: str, broken: str
) -> None:
    await store.append(BUILD_27, f27())
    await keep(store, snapshots, BUILD_27, 12)
    await as_owner(database, f"UPDATE states SET state = '{broken}'")
    states = States(store, snapshots)
    assert await states.at(BUILD_27) == await States(store).at(BUILD_27)
    fresh = States(store, snapshots)
    [(_, at)] = (await fresh.page(Query("build"))).runs
    assert at == await States(store).at(BUILD_27)


@pytest.mark.parametrize("dsn", ["postgres"], indirect=True)
async def test_where_events_have_left_the_log_the_snapshot_is_all_there_is(
    store: AnyStore, snapshots: AnySnapshots, database: str
) -> None:
    await store.append(BUILD_27, f27())
    told_before = States(store, snapshots)
    assert (await told_before.at(BUILD_27, 2)).version == 2
    await keep(store, snapshots, BUILD_27, 12)
    await as_owner(database, "DELETE FROM events", "UPDATE streams SET floor = version")
    for states in (told_before, States(store, snapshots)):
        assert (await states.at(BUILD_27)).state.status == "completed"
        assert (await states.at(BUILD_27, 12)).version == 12
        with pytest.raises(Gone, match="told from version 12 to 12, not as of 3: its first 12 events"):
            await states.at(BUILD_27, 3)
    await as_owner(database, "DELETE FROM states")
    with pytest.raises(Gone, match="no snapshot of it was kept"):
        await States(store, snapshots).at(BUILD_27)
    assert (await States(store, snapshots).page(Query("build"))).runs == []


@pytest.mark.parametrize("dsn", ["postgres"], indirect=True)
async def test_where_the_events_are_gone_a_state_of_an_older_shape_is_shown_as_far_as_it_goes(
    store: AnyStore, snapshots: AnySnapshots, database: str
) -> None:
    await store.append(BUILD_27, f27())
    await keep(store, snapshots, BUILD_27, 12)
    older = "UPDATE states SET fold = 0, state = state - 'legacy' || '{\"unknown\": 1}'"
    await as_owner(database, older)
    assert (await States(store, snapshots).at(BUILD_27)).state.legacy == 100, "folded from the events"
    await as_owner(database, "DELETE FROM events", "UPDATE streams SET floor = version")
    at = await States(store, snapshots).at(BUILD_27)
    assert (at.version, at.state.status, at.state.legacy) == (12, "completed", 0)
    await as_owner(database, 'UPDATE states SET state = state || \'{"progress": "much"}\'')
    with pytest.raises(Gone):
        await States(store, snapshots).at(BUILD_27)


@pytest.mark.parametrize("dsn", ["postgres"], indirect=True)
async def test_what_was_kept_of_a_log_that_was_replaced_is_forgotten(
    store: AnyStore, snapshots: AnySnapshots, database: str
) -> None:
    states = States(store, snapshots)
    await store.append(BUILD_27, f27())
    assert (await states.at(BUILD_27)).version == 12
    await as_owner(database, "DELETE FROM events WHERE version > 3", "UPDATE streams SET version = 3")
    at = await states.at(BUILD_27)
    assert (at.version, at.state.status) == (3, "executing")
    await as_owner(database, "DELETE FROM events", "DELETE FROM streams")
    assert (await states.at(BUILD_27)).version == 0


async def as_owner(database: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute("SET session_replication_role = replica")
        for statement in statements:
            await owner.execute(statement.encode())


@pytest.mark.pure
def test_what_is_kept_in_memory_is_bounded_by_its_size() -> None:
    cache = Cache(10 * OVERHEAD)
    state: At[Any] = At(BUILD.fold.initial, 1)
    for number in range(100):
        cache.put(StreamId("build", str(number)), BUILD, state, 100)
    assert 5 < len(cache) < 11
    assert cache.size <= 10 * OVERHEAD
    assert cache.get(StreamId("build", "99")) is state
    assert cache.get(StreamId("build", "0")) is None


@pytest.mark.pure
def test_many_events_that_leave_a_small_state_do_not_make_it_heavy() -> None:
    cache = Cache()
    for version in range(1, 2000):
        cache.put(BUILD_27, BUILD, At(BUILD.fold.initial, version), 1000)
    assert cache.size < 30_000
    cache.drop(BUILD_27)
    assert cache.size == 0


@pytest.mark.pure
def test_only_what_is_newer_takes_the_place_of_what_is_kept() -> None:
    cache = Cache()
    cache.put(BUILD_27, BUILD, At("newer", 7), 1)
    cache.put(BUILD_27, BUILD, At("older", 6), 1)
    assert cache.get(BUILD_27) == At("newer", 7)
