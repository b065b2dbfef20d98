"""The projector: which rows it writes when, where its cursor stands meanwhile, and what a changed fold costs."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
import pytest

from eventstore import BY_NAME, START, At, Event, NewEvent, Position, StreamId
from eventstore.categories.build import evolve
from eventstore.errors import Invalid
from eventstore.frozen import thaw
from eventstore.projector import NAME, Projector, projector
from eventstore.refold import Refold
from eventstore.snapshots import Projected, Query
from eventstore.states import States, folded
from eventstore.store import Also
from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.memory import MemoryStore
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.projected import MemoryCursors, MemorySnapshots
from eventstore.stores.snapshots import PostgresSnapshots
from tests.eventstore.logs import BUILD_27, f27
from tests.projection import (
    FAST,
    Clock,
    following,
    projecting,
    refolding,
    snapshots_of,
    until,
    until_in_view,
    until_projected,
)

OTHER = StreamId("build", "28")


@dataclass
class Scene:
    """A projector that is handed pages by the test, and a clock that stands still."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clock: Clock = field(default_factory=Clock)
    saved: Position = START
    written: list[tuple[str, int]] = field(default_factory=list)
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.rows = MemorySnapshots(self.store)
        self.read = START
        self.begin()

    def begin(self, **options: Any) -> None:
        """A new tenure, from where the last one saved."""
        self.read = self.saved
        self.projector = Projector(self.store, self, self.saved, clock=self.clock, **options)  # type: ignore[arg-type]

    async def step(self) -> float | None:
        page = await self.store.read_all(self.read)
        self.read = page[-1].position if page else self.read
        return await self.projector.handle(page, self.save)

    async def save(self, also: Also | None = None, *, upto: Position | None = None) -> None:
        if also is not None:
            await also(None)
        self.saved = self.read if upto is None else upto

    async def write(self, rows: Sequence[Projected], joined: Any) -> None:
        if self.refused.intersection(row.stream.id for row in rows):
            raise Invalid("the database refused the data")
        self.written += [(row.stream.id, row.snapshot.version) for row in rows]
        await self.rows.write(rows, joined)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rows, name)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def custom(count: int = 1) -> list[NewEvent]:
    return [NewEvent("custom")] * count


async def test_a_new_stream_is_written_at_once(scene: Scene) -> None:
    recorded = await scene.store.append(BUILD_27, custom(3))
    await scene.step()
    assert scene.written == [("27", 3)]
    assert scene.saved == recorded[-1].position


async def test_one_page_writes_each_stream_once(scene: Scene) -> None:
    for stream in (BUILD_27, OTHER, BUILD_27, OTHER, BUILD_27):
        await scene.store.append(stream, custom())
    await scene.step()
    assert scene.written == [("27", 3), ("28", 2)]


async def test_a_stream_that_goes_on_is_written_once_a_second(scene: Scene) -> None:
    await scene.store.append(BUILD_27, custom())
    await scene.step()
    for _ in range(10):
        await scene.store.append(BUILD_27, custom())
        scene.clock.seconds += 0.05
        await scene.step()
    assert scene.written == [("27", 1)]
    scene.clock.seconds += 0.5
    await scene.step()
    assert scene.written == [("27", 1), ("27", 11)]


async def test_the_cursor_waits_before_the_first_event_that_no_row_has(scene: Scene) -> None:
    first = (await scene.store.append(BUILD_27, custom()))[0]
    await scene.step()
    await scene.store.append(BUILD_27, custom())
    await scene.store.append(OTHER, custom())
    await scene.step()
    assert scene.written == [("27", 1), ("28", 1)]
    assert scene.saved == first.position, "behind it comes an event of 27 that is not written"
    scene.clock.seconds += 1
    await scene.step()
    assert scene.saved == scene.read


async def test_who_dies_with_unwritten_events_leaves_them_to_the_next(scene: Scene) -> None:
    await scene.store.append(BUILD_27, custom())
    await scene.step()
    await scene.store.append(BUILD_27, custom(2))
    await scene.step()
    scene.begin()
    await scene.step()
    assert scene.written == [("27", 1), ("27", 3)]


async def test_events_that_come_twice_are_folded_once(scene: Scene) -> None:
    await scene.store.append(BUILD_27, f27())
    await scene.step()
    before = (await scene.rows.stored([BUILD_27]))[BUILD_27]
    scene.saved = START
    scene.begin()
    await scene.step()
    assert (await scene.rows.stored([BUILD_27]))[BUILD_27] == before
    assert scene.written == [("27", 12)]


async def test_the_end_and_what_lists_filter_by_are_written_at_once(scene: Scene) -> None:
    build = [NewEvent("plan_started"), NewEvent("custom"), NewEvent("build_failed", {"error": "no"})]
    for event in build:
        await scene.store.append(BUILD_27, [event])
        await scene.step()
    assert scene.written == [("27", 1), ("27", 3)], "the second changed neither"


async def test_it_says_when_it_wants_to_be_called_again(scene: Scene) -> None:
    assert await first_idle(scene) is None
    await scene.store.append(BUILD_27, custom())
    assert await scene.step() is None
    await scene.store.append(BUILD_27, custom())
    scene.clock.seconds += 0.25
    again = await scene.step()
    assert again == pytest.approx(0.75)


async def test_a_row_that_was_lost_is_folded_from_the_log(scene: Scene) -> None:
    await scene.store.append(BUILD_27, f27())
    await scene.step()
    scene.rows = MemorySnapshots(scene.store)
    scene.begin()
    await scene.store.append(BUILD_27, custom())
    await scene.step()
    assert scene.written[-1] == ("27", 13)


async def test_a_state_that_the_database_refuses_does_not_hold_up_the_others(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.refused = frozenset({"28"})
    for stream in (BUILD_27, OTHER, StreamId("build", "29")):
        await scene.store.append(stream, custom())
    await scene.step()
    assert scene.written == [("27", 1), ("29", 1)]
    assert scene.saved == scene.read
    assert "build-28 stays without a snapshot" in caplog.text


async def first_idle(scene: Scene) -> float | None:
    """Until all is read and written; the first steps look for rows of older folds, too."""
    again: float | None = 0.0
    for _ in range(8):
        again = await scene.step()
        scene.clock.seconds += 1
    return again


def counts_twice(state: Any, event: Event) -> Any:
    """A changed fold: every event counts for two."""
    changed = evolve(state, event)
    return msgspec.structs.replace(changed, events=state.events + 2)


async def test_a_changed_fold_makes_every_row_anew_in_small_steps(scene: Scene) -> None:
    for number in range(100):
        await scene.store.append(StreamId("build", str(number)), custom(30))
    await first_idle(scene)
    scene.written.clear()
    scene.begin(categories=refolding("build", 2, counts_twice))
    steps = 0
    while await scene.step() is not None:
        steps += 1
    assert sorted(scene.written) == sorted((str(number), 30) for number in range(100))
    assert steps > 4, "a step folds about a page of events"
    row = (await scene.rows.stored([OTHER]))[OTHER].snapshot
    assert (row.fold, json.loads(row.data)["events"]) == (2, 60)


async def test_a_long_stream_is_made_anew_page_by_page(scene: Scene) -> None:
    for _ in range(25):
        await scene.store.append(BUILD_27, custom(100))
    await first_idle(scene)
    scene.written.clear()
    categories = refolding("build", 2, counts_twice)
    refold = Refold(scene.store, scene.rows, categories)
    found = [await refold.step() for _ in range(5)]
    assert [len(rows) for rows in found] == [0, 0, 1, 0, 0]
    assert found[2][0].snapshot.version == 2500


async def test_a_stream_whose_row_is_old_is_made_anew_before_the_others_when_it_goes_on(scene: Scene) -> None:
    for number in range(100):
        await scene.store.append(StreamId("build", str(number)), custom(50))
    await first_idle(scene)
    scene.written.clear()
    scene.begin(categories=refolding("build", 2, counts_twice))
    await scene.store.append(StreamId("build", "99"), custom())
    await scene.step()
    assert scene.written[0] == ("99", 51)
    while await scene.step() is not None:
        pass
    assert scene.written.count(("99", 51)) == 1


async def test_while_a_changed_fold_is_made_anew_lists_go_on_and_statuses_are_new(scene: Scene) -> None:
    await scene.store.append(BUILD_27, custom(3))
    await scene.step()
    states = States(scene.store, scene.rows, categories=refolding("build", 2, counts_twice))
    [(_, listed)] = (await states.page(Query("build", status="unknown"))).runs
    assert listed.state.events == 3
    assert (await states.at(BUILD_27)).state.events == 6


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_in_whatever_order_rows_and_states_are_what_the_log_folds_to(seed: int) -> None:
    """Appends, steps, deaths, pauses, lost rows, newer folds and questions, as they come."""
    chance, scene = random.Random(seed), Scene()
    streams = [StreamId("build", str(number)) for number in range(4)]
    types = ["custom", "plan_started", "task_started", "task_completed", "build_failed"]
    fold = 1
    for _ in range(250):
        stream = chance.choice(streams)
        match chance.choices(["append", "step", "die", "wait", "lose", "change", "ask"], [8, 6, 1, 2, 0.2, 0.1, 3])[0]:
            case "append":
                await scene.store.append(stream, [NewEvent(chance.choice(types)) for _ in range(chance.randint(1, 5))])
            case "step":
                await scene.step()
            case "die":
                scene.begin(categories=refolding("build", fold))
            case "wait":
                scene.clock.seconds += chance.random()
            case "lose":
                scene.rows._rows.pop(stream, None)
            case "change":
                fold += 1
                scene.begin(categories=refolding("build", fold))
            case "ask":
                head = (await scene.store.heads([stream])).get(stream, 0)
                version = chance.choice([None, *range(1, head + 1)])
                states = States(scene.store, scene.rows, categories=refolding("build", fold))
                assert await states.at(stream, version) == await folded_from_nothing(scene, stream, version)
    await scene.store.append(StreamId("build", "last"), custom())
    await first_idle(scene)
    for stream, row in (await scene.rows.stored(streams)).items():
        at = await folded_from_nothing(scene, stream)
        assert (row.snapshot.version, row.snapshot.fold) == (at.version, fold)
        assert thaw(BY_NAME["build"], row.snapshot.data) == at.state
    assert scene.saved == scene.read


async def folded_from_nothing(scene: Scene, stream: StreamId, version: int | None = None) -> At[Any]:
    category = BY_NAME["build"]
    return folded(category, (await scene.store.read(stream))[:version], At(category.fold.initial, 0))


# ------------------------------------------------------------------------------------------------ with the follower


@pytest.fixture
async def store(database: str) -> Any:
    async with PostgresStore(database) as opened:
        yield opened


@pytest.mark.req("S2-49")
async def test_build_progress_is_the_fold(store: PostgresStore, database: str) -> None:
    await store.append(BUILD_27, f27())
    await store.append(OTHER, [NewEvent("build_queued", {"prompt": "x", "projectId": "p"})])
    async with projecting(store, snapshots_of(store)):
        await until_in_view(database, "27", 12)
        await until_in_view(database, "28", 1)
    state = (await States(store).at(BUILD_27)).state
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute("SELECT * FROM build_progress ORDER BY build_id")
        assert [column.name for column in cursor.description or ()] == [
            *("build_id", "status", "steps_jsonb", "completed_steps"),
            *("preview_url", "error_message", "build_log_url", "updated_at"),
        ]
        rows = await cursor.fetchall()
    done = [task.id for task in state.tasks if task.status == "completed"]
    all_ = [task.id for task in state.tasks]
    assert rows[0] == ("27", state.status, all_, done, state.preview_url, None, state.log_url, state.updated_at)
    assert rows[1][1] == "unknown"


async def test_two_projectors_and_eight_writers_leave_the_rows_that_the_log_folds_to(database: str) -> None:
    async with PostgresStore(database) as one, PostgresStore(database) as two:
        streams = [StreamId("build", str(number)) for number in range(8)]

        async def produce(stream: StreamId) -> None:
            for event in f27():
                await one.append(stream, [event])

        async with projecting(one, snapshots_of(one)), projecting(two, snapshots_of(two)):
            await asyncio.gather(*map(produce, streams))
            for stream in streams:
                snapshot = await until_projected(snapshots_of(two), stream, 12)
                at = await States(two).at(stream)
                assert thaw(BY_NAME["build"], snapshot.data) == at.state


async def test_an_open_transaction_holds_events_back_and_none_is_missed(store: PostgresStore, database: str) -> None:
    """b commits while a, which is older, is open: a feed by position alone would pass a."""
    snapshots = snapshots_of(store)
    async with (
        await psycopg.AsyncConnection.connect(database) as a,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as b,
        projecting(store, snapshots) as follower,
    ):
        await until(lambda: truth(follower.is_active))
        await a.execute("SELECT append_event('build-a', 'custom', '{}')")
        await b.execute("SELECT append_event('build-b', 'custom', '{}')")
        await until(lambda: truth(follower.lag > 0))
        assert await snapshots.stored([StreamId("build", "b")]) == {}
        assert [line.stream.id for line in await snapshots.page(Query("build"))] == ["b"], "lists need not wait"
        await a.commit()
        for name in "ab":
            await until_projected(snapshots, StreamId("build", name), 1)
        await until(lambda: truth(follower.lag == 0))


async def test_connections_that_are_cut_cost_time_and_nothing_else(store: PostgresStore, database: str) -> None:
    snapshots = snapshots_of(store)
    cut = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'foldstream'
    """
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as other,
        PostgresStore(database) as following_store,
        projecting(following_store, snapshots_of(following_store)),
    ):
        for number in range(60):
            await other.execute("SELECT append_event('build-27', 'custom', '{}')")
            if number % 20 == 19:
                await until_projected(snapshots, BUILD_27, number - 5)
                await other.execute(cut)
        await until_projected(snapshots, BUILD_27, 60)
    assert (await States(store, snapshots).at(BUILD_27)).state.events == 60


async def test_what_retention_left_is_kept_by_a_changed_fold(store: PostgresStore, database: str) -> None:
    snapshots = snapshots_of(store)
    await store.append(BUILD_27, f27())
    async with projecting(store, snapshots):
        before = await until_projected(snapshots, BUILD_27, 12)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute("SET session_replication_role = replica")
        await owner.execute("DELETE FROM events")
        await owner.execute("UPDATE streams SET floor = version")
    changed = refolding("build", 2, counts_twice)
    async with projecting(store, snapshots, categories=changed):
        await store.append(OTHER, custom())
        await until_projected(snapshots, OTHER, 1, fold=2)
    assert (await snapshots.stored([BUILD_27]))[BUILD_27].snapshot == before
    at = await States(store, snapshots, categories=changed).at(BUILD_27)
    assert (at.version, at.state.status) == (12, "completed")


async def test_a_projector_stops_at_once_and_gives_its_lease_back(store: PostgresStore) -> None:
    cursors = PostgresCursors(store.connections)
    async with following(projector(store, PostgresSnapshots(store.connections), cursors, "me", rhythm=FAST)) as own:
        await until(lambda: truth(own.is_active))
        assert await cursors.claim(NAME, "you", 5) is None
        begin = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begin < 0.5
    assert await cursors.claim(NAME, "you", 5) is not None


async def test_in_memory_it_does_the_same() -> None:
    store = MemoryStore()
    snapshots = MemorySnapshots(store)
    await store.append(BUILD_27, f27())
    async with following(projector(store, snapshots, MemoryCursors(store), "me", rhythm=FAST)):
        snapshot = await until_projected(snapshots, BUILD_27, 12)
    at: At[Any] = await States(store).at(BUILD_27)
    assert snapshot.version == at.version


async def truth(value: bool) -> bool:
    return value
