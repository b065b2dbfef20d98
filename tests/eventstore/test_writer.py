"""The writer, with a commit that the test holds in its hand: who is answered, when, and what if things break."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from eventstore import NewEvent, StreamId
from eventstore.admit import admit
from eventstore.errors import Invalid, Unavailable
from eventstore.stores.writer import Answer, Lost, Outcome, Pending, Refused, Writer
from tests.eventstore.logs import recorded

pytestmark = pytest.mark.pure


def pending(stream: str, key: str | None = None) -> Pending:
    id_ = StreamId("build", stream)
    return Pending(id_, admit(id_, [NewEvent("custom", key=key)]))


class Database:
    """Answers a commit when the test says so."""

    def __init__(self) -> None:
        self.commits: list[list[Pending]] = []
        self._answers: list[asyncio.Future[Exception | None]] = []

    async def commit(self, groups: Sequence[Pending]) -> list[Answer]:
        self.commits.append(list(groups))
        self._answers.append(held := asyncio.get_running_loop().create_future())
        if (error := await held) is not None:
            raise error
        return [recorded([NewEvent("custom")], stream=group.stream) for group in groups]

    async def begun(self, number: int) -> None:
        async with asyncio.timeout(5):
            while len(self.commits) < number:
                await asyncio.sleep(0)

    def streams(self) -> list[list[str]]:
        return [[group.stream.id for group in groups] for groups in self.commits]

    def answer_all(self, error: Exception | None = None) -> None:
        for held in self._answers:
            if not held.done():
                held.set_result(error)

    def answer(self, number: int, error: Exception | None = None) -> None:
        self._answers[number - 1].set_result(error)


@asynccontextmanager
async def writing(patience: float = 5.0, **limits: int) -> AsyncIterator[tuple[Writer, Database]]:
    database = Database()
    writer = Writer(database.commit, patience=patience, **limits)
    yield writer, database
    database.answer_all()
    await writer.close()


def start(writer: Writer, *groups: Pending) -> list[asyncio.Task[object]]:
    return [asyncio.create_task(writer.write(group)) for group in groups]


async def test_an_idle_writer_commits_at_once_and_a_busy_one_gathers() -> None:
    async with writing() as (writer, database):
        tasks = start(writer, pending("a"))
        await database.begun(1)
        tasks += start(writer, pending("b"), pending("c"), pending("d"))
        database.answer(1)
        await database.begun(2)
        database.answer(2)
        await asyncio.gather(*tasks)
        assert database.streams() == [["a"], ["b", "c", "d"]]


async def test_what_arrives_together_is_written_together() -> None:
    async with writing() as (writer, database):
        tasks = start(writer, pending("a"), pending("b"))
        await database.begun(1)
        database.answer(1)
        await asyncio.gather(*tasks)
        assert database.streams() == [["a", "b"]]


async def test_a_caller_who_goes_away_takes_nobody_with_him() -> None:
    async with writing() as (writer, database):
        [writes] = start(writer, pending("a"))
        await database.begun(1)
        waits, stays = start(writer, pending("b"), pending("c"))
        await asyncio.sleep(0)
        for gone in (writes, waits):
            gone.cancel()
        await asyncio.gather(writes, waits, return_exceptions=True)
        database.answer(1)
        await database.begun(2)
        database.answer(2)
        await stays
        assert database.streams() == [["a"], ["c"]], "what had begun was finished, what waited was withdrawn"


async def test_a_refused_batch_is_tried_one_by_one_and_only_the_bad_one_fails() -> None:
    async with writing(lanes=3) as (writer, database):
        good, bad, other = start(writer, pending("good"), pending("bad"), pending("other"))
        await database.begun(1)
        database.answer(1, Refused(Invalid("somebody's fault")))
        await database.begun(4)
        assert database.streams() == [["good", "bad", "other"], ["good"], ["bad"], ["other"]]
        for number in (2, 4):
            database.answer(number)
        database.answer(3, Refused(Invalid("bad's fault")))
        await asyncio.gather(good, other)
        with pytest.raises(Invalid, match="bad's fault"):
            await bad


async def test_a_lost_commit_is_repeated_for_those_with_keys_and_confessed_to_the_others() -> None:
    async with writing() as (writer, database):
        keyed, bare = start(writer, pending("a", key="k"), pending("b"))
        await database.begun(1)
        database.answer(1, Lost("the line went dead"))
        with pytest.raises(Unavailable, match="the line went dead; whether the append was recorded is unknown"):
            await bare
        await database.begun(2)
        assert [group.doubtful for group in database.commits[1]] == [True]
        database.answer(2)
        await keyed


async def test_repeating_ends_with_the_callers_time() -> None:
    async with writing(patience=0.05) as (writer, database):
        [caller] = start(writer, pending("a", key="k"))
        while not caller.done():
            database.answer_all(Lost("again"))
            await asyncio.sleep(0.005)
        with pytest.raises(Unavailable, match="again; whether the append was recorded is unknown"):
            await caller
        assert len(database.commits) > 1


async def test_when_nothing_was_sent_everybody_is_told_so() -> None:
    async with writing() as (writer, database):
        tasks = start(writer, pending("a", key="k"), pending("b"))
        await database.begun(1)
        database.answer(1, Unavailable("Postgres is away; nothing was recorded"))
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in errors] == ["Postgres is away; nothing was recorded"] * 2
        assert errors[0] is not errors[1]


async def test_waiting_too_long_ends_with_nothing_recorded() -> None:
    async with writing(patience=0.05) as (writer, database):
        first, second = start(writer, pending("a"), pending("a", key="k"))
        await database.begun(1)
        late = start(writer, pending("b"))[0]
        with pytest.raises(Unavailable, match="nothing was recorded"):
            await late
        assert not first.done(), "what has begun is not given up by the clock of the queue"
        database.answer(1)
        await asyncio.gather(first, second)
        assert database.streams() == [["a", "a"]]


async def test_the_door_closes_when_too_many_wait() -> None:
    async with writing(patience=0.05, room=1) as (writer, database):
        [inside] = start(writer, pending("a"))
        await database.begun(1)
        with pytest.raises(Unavailable, match="too many appends are waiting"):
            await writer.write(pending("b"))
        database.answer(1)
        await inside


async def test_a_stream_is_never_written_twice_at_the_same_time() -> None:
    async with writing(lanes=2) as (writer, database):
        first = pending("a")
        first.alone = True
        tasks = start(writer, first, pending("a"), pending("b"))
        await database.begun(2)
        assert sorted(database.streams()) == [["a"], ["b"]]
        database.answer(database.streams().index(["b"]) + 1)
        await tasks[2]
        assert len(database.commits) == 2
        database.answer(database.streams().index(["a"]) + 1)
        await database.begun(3)
        database.answer(3)
        await asyncio.gather(*tasks)


async def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    async with writing() as (writer, database):
        tasks = start(writer, pending("a"))
        await database.begun(1)
        tasks += start(writer, pending("b"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="closed"):
            await writer.write(pending("c"))
        database.answer(1)
        await database.begun(2)
        database.answer(2)
        await asyncio.gather(closing, *tasks)


async def test_closing_does_not_wait_for_ever() -> None:
    async with writing(patience=0.05) as (writer, database):
        tasks = start(writer, pending("a"))
        await database.begun(1)
        tasks += start(writer, pending("b"))
        await asyncio.sleep(0)
        await writer.close()
        for task in tasks:
            with pytest.raises(Unavailable):
                await task


async def test_a_bug_in_a_commit_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async with writing() as (writer, database):
        tasks = start(writer, pending("a"))
        await database.begun(1)
        database.answer(1, ZeroDivisionError())
        with caplog.at_level(logging.CRITICAL, "eventstore.stores.writer"), pytest.raises(Unavailable, match="unknown"):
            await tasks[0]


async def test_a_crowd_is_divided_into_two_commits_and_a_few_wait_for_the_one_on_its_way() -> None:
    async with writing() as (writer, database):
        crowd = start(writer, *(pending(f"c{n}") for n in range(200)))
        await database.begun(2)
        assert [len(groups) for groups in database.commits] == [100, 100]
        few = start(writer, pending("d"), pending("e"))
        database.answer(1)
        await asyncio.gather(*crowd[:100])
        assert len(database.commits) == 2
        database.answer(2)
        await database.begun(3)
        database.answer(3)
        await asyncio.gather(*crowd, *few)
        assert database.streams()[2] == ["d", "e"]


async def test_one_clock_serves_all_who_wait() -> None:
    async with writing(patience=0.05) as (writer, database):
        first = start(writer, pending("a"))
        await database.begun(1)
        late = start(writer, pending("b"))
        await asyncio.sleep(0.02)
        later = start(writer, pending("c"))
        answers = await asyncio.gather(*late, *later, return_exceptions=True)
        assert ["nothing was recorded" in str(answer) for answer in answers] == [True, True]
        database.answer(1)
        await asyncio.gather(*first)


class Express:
    """The express way, open as long as the test says so."""

    def __init__(self) -> None:
        self.open = True
        self.begun: list[list[str]] = []
        self.heard: list[Callable[[Outcome | None], None]] = []

    def begin(self, groups: Sequence[Pending], heard: Callable[[Outcome | None], None]) -> bool:
        if self.open:
            self.begun.append([group.stream.id for group in groups])
            self.heard.append(heard)
        return self.open

    def answer(self, outcome: Outcome | None = ([],)) -> None:
        self.heard.pop(0)(outcome)


@asynccontextmanager
async def express(patience: float = 5.0) -> AsyncIterator[tuple[Writer, Database, Express]]:
    database, way = Database(), Express()
    writer = Writer(database.commit, way.begin, patience=patience)
    yield writer, database, way
    database.answer_all()
    await writer.close()


async def ready() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_express_way_is_taken_when_it_is_open() -> None:
    async with express() as (writer, database, way):
        first = start(writer, pending("a"))
        await ready()
        way.answer()
        await asyncio.gather(*first)
        way.open = False
        second = start(writer, pending("b"))
        await database.begun(1)
        database.answer(1)
        await asyncio.gather(*second)
        assert (way.begun, database.streams()) == ([["a"]], [["b"]])


async def test_who_seems_to_be_the_only_producer_does_not_wait_for_others() -> None:
    async with express() as (writer, _, way):
        tasks = start(writer, pending("a"))
        await ready()
        way.answer()
        await asyncio.gather(*tasks)
        tasks = start(writer, pending("b"), pending("c"), pending("d"))
        await asyncio.sleep(0)
        assert way.begun == [["a"], ["b"]], "it is on its way before anything else has run"
        way.answer()
        assert way.begun[2:] == [["c", "d"]]
        way.answer([[], []])
        await asyncio.gather(*tasks)
        tasks = start(writer, pending("e"), pending("f"))
        await ready()
        assert way.begun[3:] == [["e", "f"]], "they were not the only ones"
        way.answer([[], []])
        await asyncio.gather(*tasks)


async def test_what_is_in_the_way_is_committed_after_all_and_holds_its_streams_meanwhile() -> None:
    async with express() as (writer, database, way):
        tasks = start(writer, pending("a"))
        await ready()
        way.answer(None)
        tasks += start(writer, pending("a"))
        await database.begun(1)
        await ready()
        assert way.begun == [["a"]]
        database.answer(1)
        await tasks[0]
        await ready()
        way.answer()
        await asyncio.gather(*tasks)


async def test_what_is_lost_on_the_express_way_is_asked_again_if_it_has_a_key() -> None:
    async with express() as (writer, _, way):
        keyed, bare = start(writer, pending("a", key="k"), pending("b"))
        await ready()
        way.answer(Lost("the line went dead"))
        with pytest.raises(Unavailable, match="unknown"):
            await bare
        await ready()
        assert way.begun == [["a", "b"], ["a"]]
        way.answer()
        await keyed


async def test_what_is_refused_on_the_express_way_is_tried_one_by_one() -> None:
    async with express() as (writer, database, way):
        good, bad = start(writer, pending("good"), pending("bad"))
        await ready()
        way.answer(Refused(Invalid("somebody's fault")))
        await database.begun(2)
        database.answer(1)
        database.answer(2, Refused(Invalid("bad's fault")))
        await good
        with pytest.raises(Invalid, match="bad's fault"):
            await bad


async def test_a_bug_on_the_express_way_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    def broken(groups: Sequence[Pending], heard: Callable[[Outcome | None], None]) -> bool:
        raise ZeroDivisionError

    writer = Writer(Database().commit, broken)
    told = pytest.raises(Unavailable, match="could not be sent; nothing was recorded")
    with caplog.at_level(logging.CRITICAL, "eventstore.stores.writer"), told:
        await writer.write(pending("a"))
    await writer.close()


async def test_closing_waits_for_the_express_way() -> None:
    async with express() as (writer, _, way):
        tasks = start(writer, pending("a"))
        await ready()
        closing = asyncio.create_task(writer.close())
        await ready()
        assert not closing.done()
        way.answer()
        await asyncio.gather(closing, *tasks)


async def test_a_caller_who_goes_away_leaves_the_express_way_to_the_others() -> None:
    async with express() as (writer, _, way):
        gone, stays = start(writer, pending("a"), pending("b"))
        await ready()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        way.answer([[], []])
        await stays
