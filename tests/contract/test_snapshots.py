"""The contract of `Snapshots` and `Projection`, over every store."""

from __future__ import annotations

from datetime import timedelta

import pytest

from eventstore import NewEvent, StreamId
from eventstore.category import Labels
from eventstore.follower import Cursors
from eventstore.snapshots import NEAR, Projected, Query
from tests.contract.conftest import Case
from tests.projection import AnySnapshots, cursors_of, projected, snapshots_of

BUILD = StreamId("build", "27")
OTHER = StreamId("build", "28")
TASK = StreamId("task", "t")
LONG = 60.0


@pytest.fixture
def snapshots(case: Case) -> AnySnapshots:
    return snapshots_of(case.store)


class Writer:
    """Writes rows as a follower does."""

    def __init__(self, cursors: Cursors, snapshots: AnySnapshots) -> None:
        self.cursors, self.snapshots = cursors, snapshots

    async def __call__(self, *rows: Projected) -> None:
        held = await self.cursors.claim("writer", "me", LONG)
        assert held is not None
        cursor = held.cursor
        await self.cursors.save("writer", "me", LONG, cursor, cursor, lambda joined: self.snapshots.write(rows, joined))


@pytest.fixture
def write(case: Case, snapshots: AnySnapshots) -> Writer:
    return Writer(cursors_of(case.store), snapshots)


async def test_a_stream_without_a_snapshot_is_read_from_the_beginning(case: Case, snapshots: AnySnapshots) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("plan_started"), NewEvent("custom")])
    assert await snapshots.latest(BUILD, 1) == (None, recorded, 0, 2)
    assert await snapshots.latest(BUILD, 1, after=1) == (None, recorded[1:], 0, 2)
    assert await snapshots.latest(BUILD, 1, until=1) == (None, recorded[:1], 0, 2)
    assert await snapshots.latest(BUILD, 1, limit=1) == (None, recorded[:1], 0, 2)
    assert await snapshots.latest(OTHER, 1) == (None, [], 0, 0)


async def test_a_snapshot_comes_with_what_was_appended_since(
    case: Case, snapshots: AnySnapshots, write: Writer
) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("plan_started"), NewEvent("custom"), NewEvent("custom")])
    row = projected(recorded[:2])
    await write(row)
    found = await snapshots.latest(BUILD, 1)
    assert found.snapshot is not None
    assert (found.snapshot.version, found.events, found.head) == (2, recorded[2:], 3)
    await write(projected(recorded))
    found = await snapshots.latest(BUILD, 1)
    assert found.snapshot is not None
    assert (found.snapshot.version, found.events, found.head) == (3, [], 3)


async def test_a_snapshot_of_another_fold_or_of_a_later_version_is_not_used(
    case: Case, snapshots: AnySnapshots, write: Writer
) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("custom")] * 3)
    await write(projected(recorded))
    assert (await snapshots.latest(BUILD, 2)).snapshot is None
    assert await snapshots.latest(BUILD, 1, until=2) == (None, recorded[:2], 0, 3)


async def test_who_is_near_gets_the_events_and_who_is_far_the_snapshot(
    case: Case, snapshots: AnySnapshots, write: Writer
) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("custom")] * (NEAR + 3))
    await write(projected(recorded))
    assert (await snapshots.latest(BUILD, 1, after=3)).snapshot is None
    assert (await snapshots.latest(BUILD, 1, after=2)).snapshot is not None


async def test_only_what_is_newer_is_written(case: Case, snapshots: AnySnapshots, write: Writer) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("custom")] * 3)

    async def kept() -> tuple[int, int]:
        found = (await snapshots.stored([BUILD, OTHER]))[BUILD].snapshot
        return found.version, found.fold

    await write(projected(recorded[:2]))
    await write(projected(recorded[:1]))
    assert await kept() == (2, 1)
    await write(projected(recorded[:1], fold=2))
    assert await kept() == (1, 2), "made anew by a newer fold"
    await write(projected(recorded))
    assert await kept() == (3, 1), "an older program goes on: better late than never"


async def test_lists_are_filtered_by_labels_and_by_time(case: Case, snapshots: AnySnapshots, write: Writer) -> None:
    for number in range(6):
        stream = StreamId("build", str(number))
        recorded = await case.store.append(stream, [NewEvent("custom")])
        labels = Labels("failed" if number % 2 else "completed", "shop" if number < 4 else None)
        await write(projected(recorded, labels=labels))
    await write(projected(await case.store.append(TASK, [NewEvent("task_created")])))
    born = {stream.id: at for stream, _, at in await case.store.recent("build")}

    async def ids(**asked: object) -> list[str]:
        return [line.stream.id for line in await snapshots.page(Query("build", **asked))]  # type: ignore[arg-type]

    assert await ids() == ["5", "4", "3", "2", "1", "0"]
    assert await ids(status="failed") == ["5", "3", "1"]
    assert await ids(project="shop") == ["3", "2", "1", "0"]
    assert await ids(project="shop", status="completed") == ["2", "0"]
    assert await ids(since=born["2"]) == ["5", "4", "3", "2"]
    assert await ids(until=born["2"]) == ["1", "0"]
    assert await ids(status="failed", since=born["2"], until=born["5"]) == ["3"]
    assert await ids(since=born["5"] + timedelta(seconds=1)) == []
    assert await ids(status="failed", limit=2) == ["5", "3"]
    assert await ids(status="failed", limit=2, before=StreamId("build", "3")) == ["1"]
    assert await ids(limit=2, before=StreamId("build", "4")) == ["3", "2"]
    assert await ids(status="failed", before=StreamId("build", "nope")) == []
    assert [line.stream for line in await snapshots.page(Query("task"))] == [TASK]


async def test_a_list_without_a_filter_has_streams_that_nobody_has_folded(
    case: Case, snapshots: AnySnapshots, write: Writer
) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("custom")])
    await case.store.append(OTHER, [NewEvent("custom")] * 2)
    await write(projected(recorded))
    lines = await snapshots.page(Query("build"))
    assert [(line.stream, line.head, line.snapshot is not None) for line in lines] == [
        (OTHER, 2, False),
        (BUILD, 1, True),
    ]


async def test_what_an_older_fold_made_is_found_bit_by_bit(case: Case, snapshots: AnySnapshots, write: Writer) -> None:
    for number in range(5):
        recorded = await case.store.append(StreamId("build", str(number)), [NewEvent("custom")])
        await write(projected(recorded, fold=2 if number == 3 else 1))
    place, found = (0, 0), []
    while True:
        streams, last = await snapshots.outdated("build", 2, place, 2)
        found += [stream.id for stream in streams]
        if last is None:
            break
        place = last
    assert found == ["0", "1", "2", "4"]
    assert (await snapshots.outdated("build", 1, (0, 0), 9)).streams == []
    assert (await snapshots.outdated("task", 2, (0, 0), 9)).streams == []
