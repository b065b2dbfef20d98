"""The contract of reading, over every store: pages without holes, one order of everything, heads, lists."""

from __future__ import annotations

import asyncio

import pytest

from eventstore import START, Event, NewEvent, StreamId, replay
from tests.contract.conftest import Case

ONE, OTHER = StreamId("build", "1"), StreamId("build", "2")


async def fill(case: Case, stream: StreamId, count: int) -> list[Event]:
    return await case.store.append(stream, [NewEvent("custom", {"n": n}) for n in range(count)])


async def everything(case: Case, limit: int, after: object = START) -> list[Event]:
    """All that read_all has to say, page by page. Another test's transaction may hold it back for a moment."""
    found: list[Event] = []
    async with asyncio.timeout(20):
        while True:
            page = await case.other.read_all(found[-1].position if found else after, limit)  # type: ignore[arg-type]
            if not page and await all_heads(case) == len(found):
                return found
            found += page


async def all_heads(case: Case) -> int:
    return sum((await case.other.heads([entry.stream for entry in await case.other.recent("build", 1000)])).values())


@pytest.mark.req("S0-03", "S0-07", "S1-46")
async def test_pages_follow_each_other_without_a_hole(case: Case) -> None:
    log = await fill(case, ONE, 10)
    assert await case.other.read(ONE, 0, 4) == log[:4]
    assert await case.other.read(ONE, 4, 4) == log[4:8]
    assert await case.other.read(ONE, 8, 4) == log[8:]
    assert await case.other.read(ONE, 10, 4) == []
    assert await case.other.read(ONE, 99) == []


@pytest.mark.req("S0-40")
async def test_a_stream_nobody_has_heard_of_is_empty(case: Case) -> None:
    assert await case.store.read(StreamId("build", "nope")) == []
    assert await case.store.heads([StreamId("build", "nope")]) == {}


async def test_a_page_is_a_thousand_events_and_replay_reads_them_all(case: Case) -> None:
    for _ in range(3):
        await fill(case, ONE, 800)
    assert len(await case.store.read(ONE)) == 1000
    assert [event.version async for event in replay(case.other, ONE)] == list(range(1, 2401))
    assert [event.version async for event in replay(case.other, ONE, 2395)] == [2396, 2397, 2398, 2399, 2400]


async def test_streams_are_read_each_for_itself(case: Case) -> None:
    mine, theirs = await fill(case, ONE, 3), await fill(case, OTHER, 2)
    assert (await case.other.read(ONE), await case.other.read(OTHER)) == (mine, theirs)


async def test_read_all_gives_every_event_once_in_an_order_that_stays(case: Case) -> None:
    async def write(stream: StreamId) -> None:
        for n in range(1, 15):
            await (case.store if n % 2 else case.other).append(stream, [NewEvent("custom")] * (n % 3 + 1))

    await asyncio.gather(*(write(stream) for stream in (ONE, OTHER, ONE, OTHER)))
    first = await everything(case, limit=7)
    assert [event.position for event in first] == sorted({event.position for event in first})
    for stream in (ONE, OTHER):
        assert [event for event in first if event.stream == stream] == await case.store.read(stream)
    await fill(case, ONE, 5)
    assert (await everything(case, limit=1000))[: len(first)] == first


async def test_read_all_goes_on_where_a_follower_stopped(case: Case) -> None:
    await fill(case, ONE, 3)
    [*_, last] = await everything(case, limit=2)
    assert await case.store.read_all(last.position) == []
    added = await fill(case, OTHER, 2)
    async with asyncio.timeout(20):
        while len(page := await case.store.read_all(last.position)) < 2:
            await asyncio.sleep(0)
    assert page == added


async def test_heads_are_the_last_versions_of_those_that_exist(case: Case) -> None:
    await fill(case, ONE, 3)
    await fill(case, OTHER, 1)
    asked = [StreamId("build", "nope"), OTHER, ONE]
    assert await case.store.heads(iter(asked)) == {ONE: 3, OTHER: 1}
    assert await case.store.heads([]) == {}


async def test_recent_lists_the_youngest_first_and_pages_by_the_last_one_seen(case: Case) -> None:
    streams = [StreamId("build", f"s{n}") for n in range(5)]
    for stream in streams:
        await fill(case, stream, 2)
    await fill(case, streams[0], 1)
    youngest = await case.other.recent("build")
    assert [(entry.stream, entry.head) for entry in youngest] == [
        (s, 3 if s == streams[0] else 2) for s in streams[::-1]
    ]
    assert [entry.created_at for entry in youngest] == sorted((e.created_at for e in youngest), reverse=True)
    page = await case.other.recent("build", 2)
    assert page == youngest[:2]
    assert await case.other.recent("build", 2, page[-1].stream) == youngest[2:4]
    assert await case.other.recent("build", 2, youngest[-1].stream) == []
    assert await case.other.recent("build", 2, StreamId("build", "nope")) == []
    assert await case.other.recent("nothing") == []


async def test_the_epoch_is_one_for_the_life_of_a_log(case: Case) -> None:
    epoch = await case.store.epoch()
    assert len(epoch) == 36
    assert await case.other.epoch() == epoch


async def test_a_store_that_answers_pings(case: Case) -> None:
    await case.store.ping()
