"""The contract of append, over every store: dense versions, one answer a key, all or nothing, announced in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventstore import Event, NewEvent, StreamId
from eventstore.errors import Conflict, Invalid, KeyReused
from tests.contract.conftest import Case

ONE, OTHER = StreamId("build", "1"), StreamId("build", "2")


def numbered(count: int, key: str = "") -> list[NewEvent]:
    return [NewEvent("custom", {"n": n}, key=f"{key}{n}" if key else None) for n in range(count)]


def versions(events: Sequence[Event]) -> list[int]:
    return [event.version for event in events]


def told(events: Sequence[Event]) -> list[tuple[str, Any]]:
    return [(event.type, event.data) for event in events]


async def test_events_are_answered_in_order_as_they_were_recorded(case: Case) -> None:
    before = datetime.now(UTC)
    answered = await case.store.append(ONE, [NewEvent("first", {"ä": [1, None]}, request_id="r-1"), NewEvent("second")])
    assert versions(answered) == [1, 2]
    assert [(event.stream, event.type, event.json, event.request_id) for event in answered] == [
        (ONE, "first", '{"ä":[1,null]}'.encode(), "r-1"),
        (ONE, "second", b"{}", None),
    ]
    assert answered[0].position < answered[1].position
    assert all(before - timedelta(seconds=5) < event.at < before + timedelta(seconds=60) for event in answered)
    assert all(event.at.utcoffset() == timedelta(0) for event in answered)
    assert await case.other.read(ONE) == answered


async def test_the_producers_time_is_kept_to_the_microsecond(case: Case) -> None:
    at = datetime(2025, 7, 22, 7, 15, 20, 107001, UTC)
    [event] = await case.store.append(ONE, [NewEvent("custom", at=at)])
    assert event.at == at
    assert (await case.other.read(ONE))[0].at == at


@pytest.mark.req("S1-70")
async def test_what_was_sent_comes_back_byte_by_byte(case: Case) -> None:
    data = {"b": 1, "a": {"z": 1.0, "y": "\\u0000 \u2028 \U0001f389"}, "10": 1e300, "1": -0.0}
    [event] = await case.store.append(ONE, [NewEvent("never_heard_of", data)])
    [read] = await case.other.read(ONE)
    assert read.json == event.json
    assert list(read.data) == list(data)
    assert read.data == data


@pytest.mark.req("N-07", "S1-45", "S0-42")
async def test_eight_writers_leave_no_hole_and_no_double(case: Case) -> None:
    async def write(writer: int) -> list[Event]:
        store = case.store if writer % 2 else case.other
        answered = []
        for n in range(20):
            answered += await store.append(ONE, [NewEvent("custom", {"writer": writer, "n": n})] * (1 + n % 3))
        return answered

    answered = [event for events in await asyncio.gather(*map(write, range(8))) for event in events]
    log = await case.store.read(ONE)
    assert versions(log) == list(range(1, 8 * 39 + 1))
    assert sorted(answered, key=lambda event: event.version) == log
    for writer in range(8):
        mine = [event.data["n"] for event in log if event.data["writer"] == writer]
        assert mine == sorted(mine), "a writer's events keep his order"


async def test_the_same_key_is_recorded_once(case: Case) -> None:
    [first] = await case.store.append(ONE, [NewEvent("custom", {"n": 1}, key="k", request_id="r-1")])
    await case.store.append(ONE, [NewEvent("custom")])
    [again] = await case.other.append(ONE, [NewEvent("custom", {"n": 1}, key="k", request_id="r-2")])
    assert again == first, "the first recording, with its time and its request id"
    assert versions(await case.store.read(ONE)) == [1, 2]


async def test_a_key_belongs_to_its_stream(case: Case) -> None:
    await case.store.append(ONE, numbered(1, key="k"))
    assert versions(await case.store.append(OTHER, numbered(1, key="k"))) == [1]
    assert versions(await case.store.read(OTHER)) == [1]


async def test_the_same_append_by_many_at_once_is_recorded_once(case: Case) -> None:
    stores = [case.store, case.other] * 4
    answers = await asyncio.gather(*(store.append(ONE, numbered(3, key="k")) for store in stores))
    assert all(answer == answers[0] for answer in answers)
    assert versions(await case.store.read(ONE)) == [1, 2, 3]


async def test_of_known_and_new_keys_only_the_new_are_recorded(case: Case) -> None:
    first = await case.store.append(ONE, numbered(4, key="k")[1:3])
    answered = await case.store.append(ONE, numbered(4, key="k"))
    assert versions(answered) == [3, 1, 2, 4]
    assert answered[1:3] == first
    assert told(answered) == told(await case.store.append(ONE, numbered(4, key="k")))
    assert len(await case.store.read(ONE)) == 4


@pytest.mark.parametrize("event", [NewEvent("custom", {"n": 2}, key="k"), NewEvent("other", {"n": 1}, key="k")])
async def test_a_key_for_another_event_is_refused_with_all_that_came_along(case: Case, event: NewEvent) -> None:
    await case.store.append(ONE, [NewEvent("custom", {"n": 1}, key="k")])
    with pytest.raises(KeyReused, match="'k'"):
        await case.store.append(ONE, [NewEvent("custom", {}, key="new"), event, NewEvent("custom")])
    assert versions(await case.store.read(ONE)) == [1]
    assert versions(await case.store.append(ONE, [NewEvent("custom", {}, key="new")])) == [2]


async def test_an_expectation_that_is_met_is_no_obstacle(case: Case) -> None:
    await case.store.append(ONE, numbered(2), expected=0)
    assert versions(await case.store.append(ONE, numbered(1), expected=2)) == [3]


async def test_an_absurd_expectation_is_a_conflict_and_nobody_elses_trouble(case: Case) -> None:
    await case.store.append(ONE, numbered(2))
    others = [StreamId("build", f"other-{n}") for n in range(4)]
    for expected in (999_999_999_999_999, 2**31, -(2**40)):
        absurd = case.store.append(ONE, numbered(1), expected=expected)
        answers = await asyncio.gather(
            absurd, *(case.store.append(other, numbered(1)) for other in others), return_exceptions=True
        )
        assert isinstance(answers[0], Conflict)
        assert answers[0].expected == expected
        assert not any(isinstance(answer, Exception) for answer in answers[1:])
    assert versions(await case.store.read(ONE)) == [1, 2]


@pytest.mark.parametrize(("expected", "actual"), [(0, 2), (1, 2), (3, 2)])
async def test_a_conflict_names_both_versions_and_records_nothing(case: Case, expected: int, actual: int) -> None:
    await case.store.append(ONE, numbered(2))
    with pytest.raises(Conflict) as conflict:
        await case.store.append(ONE, numbered(5), expected=expected)
    assert (conflict.value.expected, conflict.value.actual) == (expected, actual)
    assert versions(await case.store.read(ONE)) == [1, 2]


async def test_expecting_events_in_a_stream_that_is_not_there_leaves_no_stream(case: Case) -> None:
    with pytest.raises(Conflict) as conflict:
        await case.store.append(ONE, numbered(1), expected=3)
    assert conflict.value.actual == 0
    assert await case.store.heads([ONE]) == {}
    assert await case.store.recent("build") == []


async def test_of_many_who_expect_the_same_version_one_wins(case: Case) -> None:
    stores = [case.store, case.other] * 5
    answers = await asyncio.gather(
        *(store.append(ONE, numbered(2), expected=0) for store in stores), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict"] * 9 + ["list"]
    assert versions(await case.store.read(ONE)) == [1, 2]


async def test_a_repetition_succeeds_whatever_it_expects(case: Case) -> None:
    first = await case.store.append(ONE, numbered(2, key="k"), expected=0)
    assert await case.store.append(ONE, numbered(2, key="k"), expected=0) == first
    with pytest.raises(Conflict):
        await case.store.append(ONE, numbered(3, key="k"), expected=0)
    assert versions(await case.store.append(ONE, numbered(3, key="k"), expected=2)) == [1, 2, 3]


async def test_one_append_that_fails_fails_alone(case: Case) -> None:
    streams = [StreamId("build", f"s{n}") for n in range(6)]
    await case.store.append(streams[0], numbered(1, key="k"))
    answers = await asyncio.gather(
        case.store.append(streams[0], [NewEvent("else", {}, key="k0")]),
        *(case.store.append(stream, numbered(1), expected=n % 2) for n, stream in enumerate(streams)),
        return_exceptions=True,
    )
    assert [type(answer).__name__ for answer in answers] == [
        "KeyReused", "Conflict", "Conflict", "list", "Conflict", "list", "Conflict",
    ]  # fmt: skip
    assert await case.store.heads(streams) == {streams[0]: 1, streams[2]: 1, streams[4]: 1}


@pytest.mark.parametrize(
    "events",
    [
        [],
        [NewEvent("custom", {"text": "x" * 70_000})],
        [NewEvent("custom"), NewEvent("custom", {"text": "a\x00b"})],
        [NewEvent("custom", {"text": "\ud800"})],
        [NewEvent("custom", {"n": float("nan")})],
        [NewEvent("custom", {}, key="k"), NewEvent("custom", {}, key="k")],
        [NewEvent("no type")],
    ],
    ids=["none", "too large", "NUL", "surrogate", "NaN", "key twice", "type"],
)
async def test_what_may_not_enter_is_refused_as_a_whole(case: Case, events: list[NewEvent]) -> None:
    with pytest.raises(Invalid):
        await case.store.append(ONE, events)
    assert await case.store.read(ONE) == []


async def test_a_thousand_events_are_one_append(case: Case) -> None:
    answered = await case.store.append(ONE, numbered(1000, key="k"), expected=0)
    assert versions(answered) == list(range(1, 1001))
    assert await case.store.append(ONE, numbered(1000, key="k")) == answered


async def test_work_that_joins_is_done_once_and_before_the_end(case: Case) -> None:
    seen: list[int] = []

    async def also(connection: object) -> None:
        seen.append(len(case.announced))
        assert await case.other.read(ONE) == [], "nothing is visible before the commit"

    assert versions(await case.store.append(ONE, numbered(2, key="k"), also=also)) == [1, 2]
    assert versions(await case.store.append(ONE, numbered(2, key="k"), also=also)) == [1, 2]
    assert seen == [0], "a repetition does not do it again"
    assert case.announced_of(ONE) == [1, 2]


async def test_when_the_work_that_joins_fails_nothing_is_recorded(case: Case) -> None:
    async def also(connection: object) -> None:
        raise LookupError("no such job")

    with pytest.raises(LookupError, match="no such job"):
        await case.store.append(ONE, numbered(2), also=also)
    assert await case.store.read(ONE) == []
    assert case.announced == []
    assert versions(await case.store.append(ONE, numbered(1))) == [1]


async def test_a_refused_append_does_not_do_the_work_that_joins(case: Case) -> None:
    async def also(connection: object) -> None:
        raise AssertionError("it must not be called")

    with pytest.raises(Conflict):
        await case.store.append(ONE, numbered(1), expected=7, also=also)


@pytest.mark.req("S1-08", "S2-67")
async def test_events_are_announced_after_the_commit_and_in_order(case: Case) -> None:
    heard: list[tuple[list[Event], asyncio.Task[list[list[Event]]]]] = []

    async def look() -> list[list[Event]]:
        return [await case.other.read(stream) for stream in (ONE, OTHER)]

    case.listeners.append(lambda events: heard.append((events, asyncio.create_task(look()))))

    async def also(connection: object) -> None:
        await asyncio.sleep(0)

    await asyncio.gather(
        *(
            case.store.append(stream, numbered(1 + n % 2), also=also if n % 5 == 0 else None)
            for n in range(20)
            for stream in (ONE, OTHER)
        )
    )
    for stream in (ONE, OTHER):
        assert case.announced_of(stream) == list(range(1, 31))
    for events, looked in heard:
        found = [event for log in await looked for event in log]
        assert all(event in found for event in events), "whoever hears of an event finds it in the log"


async def test_a_repetition_and_a_refusal_are_not_announced(case: Case) -> None:
    await case.store.append(ONE, numbered(2, key="k"))
    await case.store.append(ONE, numbered(3, key="k"))
    with pytest.raises(Conflict):
        await case.store.append(ONE, numbered(1), expected=0)
    assert case.announced_of(ONE) == [1, 2, 3]


async def test_an_announcement_that_fails_does_not_fail_the_append(case: Case) -> None:
    def broken(events: list[Event]) -> None:
        raise RuntimeError("the hub is broken")

    case.listeners.append(broken)
    assert versions(await case.store.append(ONE, numbered(1))) == [1]
    assert versions(await case.store.append(ONE, numbered(1))) == [2]


async def test_a_caller_who_goes_away_leaves_the_log_whole(case: Case) -> None:
    tasks = []
    for n in range(40):
        tasks.append(asyncio.create_task(case.store.append(ONE, numbered(3))))
        for _ in range(n % 4):
            await asyncio.sleep(0)
        if n % 3 == 0:
            tasks[-1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await case.store.append(OTHER, numbered(1))
    log = await case.store.read(ONE)
    assert versions(log) == list(range(1, len(log) + 1))
    assert len(log) % 3 == 0, "an append is recorded as a whole"
    assert case.announced_of(ONE) == versions(log), "and announced as a whole"
    acknowledged = [event for answer in answers if isinstance(answer, list) for event in answer]
    assert set(versions(acknowledged)) <= set(versions(log))
    assert len([answer for answer in answers if isinstance(answer, list)]) >= 26
