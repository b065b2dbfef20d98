"""Writer: takes the appends of many callers, has them committed in batches, and gives each caller its own answer.

It knows queues, deadlines and who may be tried again; it knows no SQL. What it does next is decided at once in
`_advance`, from `batch.plan`. A batch goes the express way if there is one (`begin`: it is on its way when that
returns, without a task); what must be awaited runs in tasks of the writer's own. Either way a caller who goes away
takes neither the others nor his own half-done append with him.

An append whose connection was lost while it was being committed may or may not be recorded. If every event of it has a
key, asking again answers that; otherwise the caller is told that nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eventstore.errors import FoldstreamError, Unavailable
from eventstore.event import Event, StreamId
from eventstore.store import Also
from eventstore.stores.batch import MOST, Group, plan

log = logging.getLogger(__name__)

WORTHWHILE = 32
"""Appends that are worth a second commit while another one is on its way. A commit has a price of its own on both sides
(0.1 ms of CPU here, 0.5 ms in Postgres), but in turns each side waits for the other: on two free cores, two of 32 came
to 18.4-19.2k events/s with a p99 of 6 ms, where one of 64 came to 15.6k with 8 ms."""

UNKNOWN = "whether the append was recorded is unknown"

Answer = list[Event] | Exception
"""What an append comes to: its events as recorded, or what to raise in its caller."""


class Lost(Exception):
    """The connection was lost while the write was being committed: nobody knows whether it was."""


class Refused(Exception):
    """The database refused the whole write: nothing was recorded. error: what to tell a caller who wrote alone."""

    def __init__(self, error: FoldstreamError) -> None:
        self.error = error
        super().__init__(error.detail)


@dataclass(eq=False, slots=True)
class Pending(Group):
    """A group and its caller. until: loop time of its last attempt. doubtful: it may be recorded already."""

    also: Also | None = None
    answer: asyncio.Future[Answer] | None = None
    until: float = 0.0
    doubtful: bool = False

    @property
    def repeatable(self) -> bool:
        """Writing it twice records it once."""
        return self.also is None and all(draft.key is not None for draft in self.drafts)


Commit = Callable[[Sequence[Pending]], Awaitable[Sequence[Answer]]]
"""Writes groups in one transaction and announces what is new: an answer for each. Raises Lost, Refused, or Unavailable
when nothing was recorded."""

Outcome = Sequence[Answer] | Exception
"""What a write comes to: an answer for each group, or what Commit would have raised."""

Begin = Callable[[Sequence[Pending], Callable[[Outcome | None], None]], bool]
"""The express way: sends the groups at once and calls back with their outcome, or with None when they must be committed
after all. False, and no call, when it cannot be taken now."""


class Writer:
    """The queue before `commit`.

    begin     an express way for batches, if there is one.
    most      events in one commit.
    flights   batches that may be on their way at the same time.
    room      appends that may wait; the next ones are held at the door.
    lanes     appends that may be written alone at the same time, beside the batch.
    patience  seconds that an append may spend before its last attempt is begun.
    """

    def __init__(
        self,
        commit: Commit,
        begin: Begin | None = None,
        *,
        most: int = MOST,
        flights: int = 2,
        room: int = 2000,
        lanes: int = 4,
        patience: float = 5.0,
    ) -> None:
        self._commit = commit
        self._begin = begin
        self._most = most
        self._flights = flights
        self._lanes = lanes
        self._patience = patience
        self._door = asyncio.Semaphore(room)
        self._waiting: list[Pending] = []
        self._busy: set[StreamId] = set()
        self._alone = 0
        self._flying = 0
        self._called = False
        self._lonely = False  # the last batch was one append: its producer seems to be the only one, and need not wait
        self._closed = False
        self._clock: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._landing: asyncio.Future[None] | None = None  # for whoever waits until all is done

    async def write(self, group: Pending) -> list[Event]:
        """The events of ``group`` as recorded. Raises what its answer says, and Unavailable when its time is over."""
        loop = asyncio.get_running_loop()
        group.until = loop.time() + self._patience
        if self._door.locked():
            await self._wait_at_the_door(group.until)
        else:
            await self._door.acquire()
        try:
            if self._closed:
                raise Unavailable("the store is closed; nothing was recorded")
            group.answer = loop.create_future()
            self._waiting.append(group)
            if self._lonely and not self._flying:
                self._advance()
            else:
                self._call(loop)
            answer = await group.answer
        except asyncio.CancelledError:
            self._withdraw(group)
            raise
        finally:
            self._door.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Take no more appends, finish those that wait, as far as patience goes."""
        self._closed = True
        self._advance()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        while (self._flying or self._alone) and loop.time() < until:
            self._landing = loop.create_future()
            await asyncio.wait([self._landing], timeout=until - loop.time())
        for group in self._waiting:
            _give(group, Unavailable(f"the store is closed; {_state(group)}"))
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait_at_the_door(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._door.acquire()
        except TimeoutError:
            raise Unavailable("too many appends are waiting already; nothing was recorded") from None

    def _withdraw(self, group: Pending) -> None:
        """If it is still waiting. What is being written is written."""
        if group in self._waiting:
            self._waiting.remove(group)

    def _watch(self) -> None:
        """See that whoever waits hears in time. One clock for all: one for each append cost more than its encoding."""
        if not self._waiting:
            return
        due = min(group.until for group in self._waiting)
        if self._clock is not None:
            if self._clock.when() <= due:
                return
            self._clock.cancel()
        self._clock = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        self._clock = None
        now = asyncio.get_running_loop().time()
        late = [group for group in self._waiting if group.until <= now]
        self._waiting = [group for group in self._waiting if group.until > now]
        for group in late:
            seconds = f"{self._patience:g} seconds"
            _give(group, Unavailable(f"the append was not written within {seconds}; {_state(group)}"))
        self._watch()

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        """Advance after all that is ready to run now has run, so that what arrives together is written together."""
        if not self._called:
            self._called = True
            loop.call_soon(self._advance)

    def _advance(self) -> None:
        """Start every write that may start now."""
        self._called = False
        while self._waiting:
            most = self._share()
            if most == 0 and not any(group.alone for group in self._waiting):
                break
            chosen = plan(self._waiting, busy=self._busy, most=most, lanes=self._lanes - self._alone)
            self._waiting = chosen.left
            for group in chosen.alone:
                self._alone += 1
                self._busy.add(group.stream)
                self._start(self._write_alone(group))
            if not chosen.batch:
                break
            self._flying += 1
            self._busy.update(group.stream for group in chosen.batch)
            self._fly(chosen.batch)
        self._watch()

    def _fly(self, groups: list[Pending]) -> None:
        self._lonely = len(groups) == 1
        try:
            begun = self._begin is not None and self._begin(groups, partial(self._heard, groups))
        except Exception:  # boundary: one write; nothing was sent, and one of many may be to blame
            log.exception("%d appends could not be written down for the database", len(groups))
            refused = Refused(Unavailable("the append could not be sent; nothing was recorded"))
            asyncio.get_running_loop().call_soon(self._heard, groups, refused)
            return
        if not begun:
            self._start(self._write_batch(groups))

    def _heard(self, groups: list[Pending], outcome: Outcome | None) -> None:
        """From the express way."""
        if outcome is None:
            self._start(self._write_batch(groups))
            return
        self._settle(groups, outcome)
        self._land(groups)

    def _land(self, groups: list[Pending]) -> None:
        self._flying -= 1
        for group in groups:
            self._busy.discard(group.stream)
        self._ended()

    def _ended(self) -> None:
        if self._landing is not None and not self._landing.done():
            self._landing.set_result(None)
        self._advance()

    def _share(self) -> int:
        """Events that the next batch may take, 0 for no batch now.

        Two batches on their way keep both sides busy: one is written in Postgres while we encode and answer the other.
        (In turns, each side waited for the other half of the time.) So a crowd is divided among the flights that are
        free; but a few appends wait for the batch before them, as a commit of their own would cost more than it brings.
        """
        free = self._flights - self._flying
        if free == 0 or (self._flying and len(self._waiting) < WORTHWHILE):
            return 0
        return min(self._most, max(WORTHWHILE, -(-len(self._waiting) // free)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_batch(self, groups: list[Pending]) -> None:
        try:
            await self._write(groups)
        finally:
            self._land(groups)

    async def _write_alone(self, group: Pending) -> None:
        try:
            await self._write([group])
        finally:
            self._alone -= 1
            self._busy.discard(group.stream)
            self._ended()

    async def _write(self, groups: list[Pending]) -> None:
        outcome: Outcome
        try:
            outcome = await self._commit(groups)
        except asyncio.CancelledError:  # the store is being closed, and the database does not answer
            for group in groups:
                _give(group, Unavailable(f"the store was closed; {UNKNOWN}"))
            raise
        except Exception as error:  # noqa: BLE001 - boundary: one write; _settle logs a bug, so that no caller waits for ever
            outcome = error
        self._settle(groups, outcome)

    def _settle(self, groups: list[Pending], outcome: Outcome) -> None:
        """Give each caller what became of his append, or have it tried again."""
        if not isinstance(outcome, Exception):
            for group, answer in zip(groups, outcome, strict=True):
                _give(group, answer)
        elif isinstance(outcome, Lost):
            self._after_loss(groups, outcome)
        elif isinstance(outcome, Refused):
            self._after_refusal(groups, outcome.error)
        elif isinstance(outcome, Unavailable):
            for group in groups:  # an exception of its own for each: they are raised in different tasks
                _give(group, Unavailable(outcome.detail))
        else:
            log.error("a write of %d appends failed", len(groups), exc_info=outcome)
            for group in groups:
                _give(group, Unavailable(f"the write failed inside the store; {UNKNOWN}"))

    def _after_loss(self, groups: list[Pending], lost: Lost) -> None:
        """Ask again where that is safe; the others get the truth, which is that nobody knows."""
        again = []
        for group in groups:
            if group.repeatable and not self._closed and asyncio.get_running_loop().time() < group.until:
                group.doubtful = True
                again.append(group)
            else:
                _give(group, Unavailable(f"{lost}; {UNKNOWN}"))
        self._waiting[:0] = [group for group in again if group.answer and not group.answer.done()]

    def _after_refusal(self, groups: list[Pending], error: FoldstreamError) -> None:
        """One of many may be to blame: let each try for itself, so that the bad one fails alone."""
        if len(groups) == 1:
            _give(groups[0], error)
            return
        log.warning("a batch of %d appends was refused, each is tried alone: %s", len(groups), error.detail)
        for group in groups:
            group.alone = True
        self._waiting[:0] = [group for group in groups if group.answer and not group.answer.done()]


def _state(group: Pending) -> str:
    """Of an append that waits."""
    return UNKNOWN if group.doubtful else "nothing was recorded"


def _give(group: Pending, answer: Answer) -> None:
    if group.answer is not None and not group.answer.done():
        group.answer.set_result(answer)
