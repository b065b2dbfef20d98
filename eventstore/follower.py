"""Follower: somebody on the server who reads the whole log in order, from where he stopped; one process at a time.

Theory. Following is a loop over (cursor, page, what the page causes), and the one question is what happens when it is
cut. The cursor is stored after the work: in the work's own transaction where that is in the same database (then each
event counts exactly once), behind it otherwise (then at least once). Who may follow under a name is a lease by the
clock of the database; but a lease alone protects nobody from a process that was stopped and wakes up believing in it.
So every save says what it takes for true, "I hold the lease and the cursor is where I left it", and is refused when it
is not. Losing the lease costs time, never an event.

Waking up: the store's announcement of an append names a position; until the feed has shown it, the follower looks again
at growing intervals (open transactions hold the feed back). What other processes append is found once a second, by the
same small statement that renews the lease. Processes without the lease send only that statement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import anyio

from eventstore.errors import FoldstreamError, Unavailable
from eventstore.event import START, Event, Position
from eventstore.store import PAGE, Also, Store

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A lease that is ours. cursor: up to there all is done. head: where the feed ends, certain or not."""

    cursor: Position
    head: Position


class Superseded(Exception):
    """The lease, or the cursor, is not what this process left: another one follows, or begins anew."""


class Cursors(Protocol):
    """Where followers stand, and who follows. The clock is the database's."""

    async def claim(self, name: str, owner: str, seconds: float) -> Held | None:
        """Hold the lease of ``name`` from now on for ``seconds``, new or renewed; None: somebody else holds it."""
        ...

    async def save(
        self, name: str, owner: str, seconds: float, before: Position, after: Position, also: Also | None = None
    ) -> None:
        """Move the cursor from ``before`` to ``after``, renew the lease, and do ``also`` (see `Also`): all or nothing.

        Raises Superseded, Unavailable (it may have happened all the same), and what ``also`` raises.
        """
        ...

    async def release(self, name: str, owner: str) -> None:
        """Give the lease back, if ``owner`` has it."""
        ...


class Save(Protocol):
    """What a `Handle` calls when its work is done."""

    async def __call__(self, also: Also | None = None, *, upto: Position | None = None) -> None:
        """Store the cursor: ``upto``, or the end of what was handed over. ``also`` joins its transaction.

        Whatever is not below the cursor comes again after a restart. Raises what `Cursors.save` raises.
        """
        ...


Handle = Callable[[Sequence[Event], Save], Awaitable[float | None]]
"""Takes a page (maybe an empty one). Answers after how many seconds it wants to be called though nothing comes."""

Begin = Callable[[Position], Handle]
"""Makes the `Handle` of one tenure, which begins behind this position. It must remember nothing of an earlier one."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds. lease: how long a process that died keeps others waiting. renew: how often it is renewed, asked for, and
    looked whether others have appended. gather: the least time between two reads of less than a page.
    """

    lease: float = 5.0
    renew: float = 1.0
    gather: float = 0.05


STEADY = Rhythm()
MOST_PAUSE = 1.0
MOST_BACKOFF = 30.0
MOST_OUTAGE = 2.0
LEAVE_SECONDS = 0.3


def pause(empties: int) -> float:
    """How long to wait for events that are announced and not yet certain, after so many looks in vain."""
    return min(MOST_PAUSE, 0.005 * 2.0 ** min(empties, 20))


def backoff(failures: int, error: Exception) -> float:
    """How long to wait after so many failures in a row. A store that is away comes back without being mended here."""
    return min(MOST_OUTAGE if isinstance(error, Unavailable) else MOST_BACKOFF, 0.25 * 2.0 ** min(failures, 20))


class Follower:
    """Follows ``store`` under ``name``. ``owner`` names this process, unlike any other. `run` it beside the server."""

    def __init__(
        self,
        store: Store,
        cursors: Cursors,
        name: str,
        begin: Begin,
        *,
        owner: str,
        rhythm: Rhythm = STEADY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.is_active = False
        self.cursor = START
        """Up to there events have been handed over and dealt with."""
        self._store, self._cursors, self._begin, self._owner = store, cursors, begin, owner
        self._rhythm, self._clock = rhythm, clock
        self._head = START
        self._given = self._stored = START
        self._behind_since: float | None = None
        self._failures = 0
        self._wake = asyncio.Event()
        self._saving = anyio.Lock()

    @property
    def lag(self) -> float:
        """Seconds for which there has been an event that is not dealt with; 0 for a process without the lease."""
        if not self.is_active or self._behind_since is None:
            return 0.0
        return self._clock() - self._behind_since

    def nudge(self, events: Sequence[Event]) -> None:
        """These are in the log now. Never blocks, never fails."""
        if events:
            self._hear(max(event.position for event in events))

    async def run(self) -> None:
        """Follow whenever the lease is to be had, until cancelled. Keeps every error: logs it, waits, goes on."""
        try:
            while True:
                try:
                    held = await self._claim()
                    if held is not None:
                        await self._hold(held)
                    wait = self._rhythm.renew
                except Exception as error:  # noqa: BLE001  boundary: one tenure; the cursor is before what failed
                    wait = self._failed(error)
                await anyio.sleep(wait)
        finally:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True), suppress(FoldstreamError):
                await self._cursors.release(self.name, self._owner)

    async def _claim(self) -> Held | None:
        return await self._cursors.claim(self.name, self._owner, self._rhythm.lease)

    async def _hold(self, held: Held) -> None:
        """One tenure: returns when the lease is lost."""
        failure: Exception | None = None
        self.is_active = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_lease, tasks.cancel_scope)
                try:
                    await self._work(held)
                except Superseded:
                    log.info("%s is followed by another process now", self.name)
                except Exception as error:  # noqa: BLE001  boundary: raised again below; a task group would wrap it
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            self.is_active, self._behind_since = False, None
        if failure is not None:
            raise failure

    async def _keep_lease(self, tenure: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(self._rhythm.renew)
            try:
                async with self._saving:  # so that the cursor that is found is the one that was stored last
                    held = await self._claim()
                    lost = held is None or held.cursor != self._stored
            except Unavailable:
                continue  # the work meets it, too, and it decides what then
            if held is None or lost:
                log.info("%s lost its lease, or its cursor was moved", self.name)
                tenure.cancel()
                return
            self._hear(held.head)

    async def _work(self, held: Held) -> None:
        self.cursor = self._given = self._stored = held.cursor
        self._hear(held.head)
        handle = self._begin(held.cursor)
        empties = 0
        while True:
            self._wake.clear()
            page = await self._store.read_all(self.cursor, PAGE)
            if page:
                self._given = page[-1].position
                self._hear(self._given)
            again = await handle(page, self._save)
            self.cursor = self._given
            self._went_well()
            empties = 0 if page else empties + 1
            if len(page) < PAGE:
                await self._rest(empties, again)

    async def _rest(self, empties: int, again: float | None) -> None:
        await anyio.sleep(self._rhythm.gather)
        if self.cursor < self._head:  # known, and held back by a transaction that is open
            await anyio.sleep(pause(empties) if empties else 0)
            return
        self._behind_since = None
        with anyio.move_on_after(again):
            await self._wake.wait()

    async def _save(self, also: Also | None = None, *, upto: Position | None = None) -> None:
        after = self._given if upto is None else upto
        async with self._saving:
            await self._cursors.save(self.name, self._owner, self._rhythm.lease, self._stored, after, also)
            self._stored = after

    def _hear(self, head: Position) -> None:
        if head > self._head:
            self._head = head
        if self._head > self.cursor:
            if self._behind_since is None:
                self._behind_since = self._clock()
            self._wake.set()

    def _went_well(self) -> None:
        if self._failures:
            log.warning("%s goes on", self.name)
        self._failures = 0

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        if self._failures == 1:  # the next ones say the same
            known = isinstance(error, FoldstreamError)
            log.warning("%s waits: %s", self.name, error, exc_info=None if known else error)
        return backoff(self._failures, error)
