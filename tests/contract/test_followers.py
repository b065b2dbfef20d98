"""The contract of `Cursors`, and of a `Follower` on top of it, over every store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from eventstore import START, Event, NewEvent, Position, StreamId
from eventstore.follower import Cursors, Follower, Handle, Rhythm, Save, Superseded
from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.memory import MemoryStore
from tests.contract.conftest import Case
from tests.projection import FAST, cursors_of, following, until

BUILD = StreamId("build", "27")
LONG = 60.0


@pytest.fixture
def cursors(case: Case) -> Cursors:
    return cursors_of(case.store)


@pytest.fixture
def elsewhere(case: Case, cursors: Cursors) -> Cursors:
    """The same cursors as another process has them."""
    return cursors if isinstance(case.other, MemoryStore) else PostgresCursors(case.other.connections)


class Reader:
    """Notes what it was given, and saves."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.began: list[Position] = []
        self.broken = False
        self.saves = True
        self.done = 0

    def begin(self, cursor: Position) -> Handle:
        self.began.append(cursor)
        return self.handle

    async def handle(self, events: Sequence[Event], save: Save) -> float | None:
        if self.broken:
            raise RuntimeError("this reader is broken")
        self.events += events
        if events and self.saves:
            await save()
        self.done = len(self.events)
        return None

    async def came(self, count: int) -> list[int]:
        async def enough() -> bool:
            return self.done >= count

        await until(enough)
        return [event.version for event in self.events]


def follower(case: Case, cursors: Cursors, reader: Reader, owner: str = "me", rhythm: Rhythm = FAST) -> Follower:
    made = Follower(case.store, cursors, "readers", reader.begin, owner=owner, rhythm=rhythm)
    case.listeners.append(made.nudge)
    return made


async def test_one_holds_the_lease_and_renews_it(cursors: Cursors, elsewhere: Cursors) -> None:
    held = await cursors.claim("readers", "a", LONG)
    assert held is not None
    assert held.cursor == START
    assert await elsewhere.claim("readers", "b", LONG) is None
    assert await cursors.claim("readers", "a", LONG) == held
    assert await elsewhere.claim("writers", "b", LONG) is not None, "another name is another lease"


async def test_a_lease_given_back_is_free_at_once(cursors: Cursors, elsewhere: Cursors) -> None:
    await cursors.claim("readers", "a", LONG)
    await elsewhere.release("readers", "b")
    assert await elsewhere.claim("readers", "b", LONG) is None, "only who has it can give it back"
    await cursors.release("readers", "a")
    assert await elsewhere.claim("readers", "b", LONG) is not None


async def test_a_lease_that_ran_out_is_taken_over(cursors: Cursors, elsewhere: Cursors) -> None:
    await cursors.claim("readers", "a", -1)
    assert await elsewhere.claim("readers", "b", LONG) is not None
    assert await cursors.claim("readers", "a", LONG) is None


async def test_a_cursor_is_found_where_it_was_left(cursors: Cursors, elsewhere: Cursors) -> None:
    await cursors.claim("readers", "a", LONG)
    await cursors.save("readers", "a", LONG, START, Position(7, 3))
    await cursors.release("readers", "a")
    held = await elsewhere.claim("readers", "b", LONG)
    assert held is not None
    assert held.cursor == (7, 3)


async def test_who_was_overtaken_while_asleep_cannot_move_the_cursor(cursors: Cursors, elsewhere: Cursors) -> None:
    """Its lease ran out, somebody else follows; then it wakes up and believes in its lease."""
    await cursors.claim("readers", "sleeper", -1)
    await elsewhere.claim("readers", "b", LONG)
    done: list[str] = []

    async def work(connection: Any) -> None:
        done.append("work")

    with pytest.raises(Superseded):
        await cursors.save("readers", "sleeper", LONG, START, Position(7, 3), work)
    assert done == []
    await elsewhere.save("readers", "b", LONG, START, Position(1, 1))


async def test_who_was_overtaken_and_has_the_lease_again_must_read_the_cursor_anew(
    cursors: Cursors, elsewhere: Cursors
) -> None:
    """The other one has come and gone while it slept: the lease alone would let it set the cursor back."""
    await cursors.claim("readers", "sleeper", -1)
    await elsewhere.claim("readers", "b", LONG)
    await elsewhere.save("readers", "b", LONG, START, Position(9, 9))
    await elsewhere.release("readers", "b")
    held = await cursors.claim("readers", "sleeper", LONG)
    assert held is not None
    assert held.cursor == (9, 9)
    with pytest.raises(Superseded):
        await cursors.save("readers", "sleeper", LONG, START, Position(7, 3))


async def test_work_that_fails_leaves_the_cursor_where_it_was(cursors: Cursors) -> None:
    async def work(connection: Any) -> None:
        raise KeyError("no")

    await cursors.claim("readers", "a", LONG)
    with pytest.raises(KeyError):
        await cursors.save("readers", "a", LONG, START, Position(7, 3), work)
    held = await cursors.claim("readers", "a", LONG)
    assert held is not None
    assert held.cursor == START


async def test_nobody_takes_over_in_the_middle_of_a_save(cursors: Cursors, elsewhere: Cursors) -> None:
    """The lease has run out, but who has it is just saving, and that renews it."""
    saving, go_on = anyio.Event(), anyio.Event()
    claimed: list[object] = []

    async def work(connection: Any) -> None:
        saving.set()
        await go_on.wait()

    async def claim() -> None:
        claimed.append(await elsewhere.claim("readers", "b", LONG))

    await cursors.claim("readers", "a", -1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cursors.save, "readers", "a", LONG, START, Position(7, 3), work)
        await saving.wait()
        tasks.start_soon(claim)
        for _ in range(20):
            await anyio.sleep(0)
        assert claimed == []
        go_on.set()
    assert claimed == [None]


async def test_a_claim_tells_where_the_log_ends(case: Case, cursors: Cursors) -> None:
    recorded = await case.other.append(BUILD, [NewEvent("a"), NewEvent("b")])
    held = await cursors.claim("readers", "a", LONG)
    assert held is not None
    assert held.head == recorded[-1].position


async def test_a_follower_gets_every_event_once_and_goes_on_from_there(case: Case, cursors: Cursors) -> None:
    reader = Reader()
    await case.store.append(BUILD, [NewEvent("a"), NewEvent("b")])
    async with following(follower(case, cursors, reader)):
        assert await reader.came(2) == [1, 2]
        await case.store.append(BUILD, [NewEvent("c")])
        assert await reader.came(3) == [1, 2, 3]
    await case.store.append(BUILD, [NewEvent("d")])
    async with following(follower(case, cursors, reader)):
        assert await reader.came(4) == [1, 2, 3, 4]


async def test_what_another_process_appends_is_found_without_being_told(case: Case, cursors: Cursors) -> None:
    reader = Reader()
    async with following(follower(case, cursors, reader)):
        await until_active(reader)
        case.listeners.clear()
        await case.other.append(BUILD, [NewEvent("a")])
        assert await reader.came(1) == [1]


async def test_what_was_not_saved_comes_again(case: Case, cursors: Cursors) -> None:
    reader = Reader()
    reader.saves = False
    await case.store.append(BUILD, [NewEvent("a"), NewEvent("b")])
    for _ in range(2):
        async with following(follower(case, cursors, reader)):
            await reader.came(len(reader.events) + 2)
    assert [event.version for event in reader.events] == [1, 2, 1, 2]


async def test_one_of_two_follows_and_the_other_takes_over(case: Case, cursors: Cursors, elsewhere: Cursors) -> None:
    first, second = Reader(), Reader()
    await case.store.append(BUILD, [NewEvent("a")])
    async with following(follower(case, elsewhere, second, "second", Rhythm(LONG, 0.02, 0.001))) as waiting:
        await second.came(1)
        async with following(follower(case, cursors, first, "first", Rhythm(LONG, 0.02, 0.001))) as other:
            await case.store.append(BUILD, [NewEvent("b")])
            assert await second.came(2) == [1, 2]
            assert (waiting.is_active, other.is_active) == (True, False)
            assert first.events == []
    async with following(follower(case, cursors, first, "first", Rhythm(LONG, 0.02, 0.001))):
        await case.store.append(BUILD, [NewEvent("c")])
        assert await first.came(1) == [3], "the lease was given back at the stop, and the cursor with it"


async def test_a_reader_that_breaks_is_tried_again_where_it_stood(
    case: Case, cursors: Cursors, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader()
    reader.broken = True
    await case.store.append(BUILD, [NewEvent("a")])
    async with following(follower(case, cursors, reader)):

        async def tried_twice() -> bool:
            return len(reader.began) > 1

        await until(tried_twice)
        reader.broken = False
        assert await reader.came(1) == [1]
    told = [record.message for record in caplog.records if "broken" in record.message]
    assert told == ["readers waits: this reader is broken"], "once, however often it happens"


async def test_a_cursor_that_was_set_back_is_noticed_though_nothing_happens(
    case: Case, cursors: Cursors, elsewhere: Cursors
) -> None:
    reader = Reader()
    await case.store.append(BUILD, [NewEvent("a")])
    async with following(follower(case, cursors, reader, "me")):
        await reader.came(1)
        await elsewhere.save("readers", "me", LONG, reader.events[0].position, START)
        assert await reader.came(2) == [1, 1]


async def test_who_has_nothing_to_do_asks_only_for_its_lease(case: Case, cursors: Cursors) -> None:
    """One small statement a second (here: every 20 ms) for who follows and for who waits; no look at any event."""
    counting = {name: Counting(cursors, case.store) for name in ("one", "two")}
    await case.store.append(BUILD, [NewEvent("a")])
    readers = {name: Reader() for name in counting}
    made = [
        Follower(counted, counted, "readers", readers[name].begin, owner=name, rhythm=Rhythm(LONG, 0.02, 0.001))
        for name, counted in counting.items()
    ]
    async with following(made[0]):
        await readers["one"].came(1)
        async with following(made[1]):
            before = {name: (counted.claims, counted.reads) for name, counted in counting.items()}
            await until(lambda: truth(all(c.claims > before[n][0] + 10 for n, c in counting.items())))
            assert [counted.reads - before[name][1] for name, counted in counting.items()] in ([0, 0], [1, 0])
    assert counting["two"].reads == 0


class Counting:
    """Counts what a follower asks for."""

    def __init__(self, cursors: Cursors, store: Any) -> None:
        self.cursors, self.store = cursors, store
        self.claims = self.reads = 0

    async def claim(self, name: str, owner: str, seconds: float) -> Any:
        self.claims += 1
        return await self.cursors.claim(name, owner, seconds)

    async def read_all(self, after: Position, limit: int) -> Any:
        self.reads += 1
        return await self.store.read_all(after, limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursors, name)


async def test_the_lag_is_counted_while_somebody_does_not_keep_up(case: Case, cursors: Cursors) -> None:
    stuck, seconds = anyio.Event(), [100.0]

    async def handle(events: Sequence[Event], save: Save) -> float | None:
        if events:
            await stuck.wait()
        return None

    slow = Follower(
        case.store, cursors, "slow", lambda cursor: handle, owner="me", rhythm=FAST, clock=lambda: seconds[0]
    )
    assert slow.lag == 0
    async with following(slow):
        await case.other.append(BUILD, [NewEvent("a")])
        await until(lambda: truth(slow._behind_since is not None))
        seconds[0] += 3
        assert slow.lag == 3
        stuck.set()
        await until(lambda: truth(slow.lag == 0))


async def truth(value: bool) -> bool:
    return value


async def until_active(reader: Reader) -> None:
    async def began() -> bool:
        return bool(reader.began)

    await until(began)
