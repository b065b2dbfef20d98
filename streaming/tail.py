"""Tail: the live end of one stream in this process, and the members that have caught up with it.

Theory. A tail stands at a version, its cursor, and knows the state there. Events come from three sides (appends in this
process, rings of others, reads of the log); `deliver` takes those that come next and passes them on to all members in
one synchronous loop, encoded once for each format. What leaves a hole is not taken: the tail then reads the log
itself.

A member is at the tail's cursor by definition, so nobody needs a queue, a task or a comparison for each event. A member
that cannot take what it is offered says no and leaves; from then on it is what every newcomer is: a reader of the log
who will `enter` again. Entering is synchronous: no await lies between "I have everything up to your cursor" and
membership, so there is no moment at which an event could slip through or come twice.

A log may turn out to be another than the tail knew: retention took it, or a backup was put in its place. Then the tail
begins anew where the log says, and all members are readers again, who find their cursors in the log or are told where
to go on (`cursor.reset`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import anyio

from eventstore.categories import BY_NAME
from eventstore.errors import FoldstreamError, Gone
from eventstore.event import Event, StreamId
from eventstore.fold import At
from eventstore.page import PAGE, Rendered, Span
from eventstore.shape import Shape
from eventstore.states import States
from eventstore.store import Log
from streaming.cursor import Step, step

log = logging.getLogger(__name__)

Format = Callable[[Sequence[Event]], Any]
"""Events as one chunk, in whatever shape a transport writes. Compared by identity: one format, one encoding."""

RECENT = 256
"""Events a tail keeps at hand for members who are only a little behind."""


class Member(Protocol):
    """Somebody who is at the tail's cursor and wants what comes next."""

    @property
    def format(self) -> Format:
        """How this member wants events written."""
        ...

    def offer(self, chunk: Any, version: int) -> bool:
        """Take the chunk (it brings you to ``version``) now, without waiting, or say no and be a reader again."""
        ...

    def expel(self) -> None:
        """You are no member any more: be a reader again."""
        ...


class Tail:
    """Made by `streaming.hub.Hub`; `open` before use."""

    def __init__(self, stream: StreamId, store: Log, states: States) -> None:
        self.stream = stream
        self.at: At[Any] = At(None, 0)
        self.floor = 0
        self.behind = False
        self.watchers = 0
        self.ready = anyio.Event()
        self.failure: Exception | None = None
        self._category = BY_NAME[stream.category]
        self._store = store
        self._states = states
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._early: list[Event] = []
        self._members: dict[Member, None] = {}  # a set that keeps the order of entering
        self._repairing = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Tail {self.stream} at {self.cursor}, {len(self._members)} members>"

    @property
    def cursor(self) -> int:
        """The version of the last event passed on."""
        return self.at.version

    @property
    def repairing(self) -> bool:
        """A `catch_up` is under way."""
        return self._repairing.locked()

    @property
    def is_final(self) -> bool:
        """Nothing more is expected of this stream. (What retention takes was sealed.)"""
        return bool(self._category.is_final(self.at.state)) or 0 < self.floor == self.cursor

    async def open(self) -> None:
        """Stand at the end of the log. The bus must be watching already, or what comes in between is missed."""
        await self._begin()
        self.ready.set()
        self.deliver(self._early)
        self._early = []

    def deliver(self, events: Sequence[Event]) -> None:
        """Take what comes next, drop what is known, note a hole. Never waits; safe to call at any time."""
        if not self.ready.is_set():
            self._early.extend(events)
            return
        fresh = []
        for event in events:
            match step(self.cursor, event.version):
                case Step.NEXT:
                    self.at = self._category.fold([event], since=self.at)
                    fresh.append(event)
                case Step.GAP:
                    self.behind = True
                    break
                case Step.STALE:
                    pass
        if fresh:
            self._recent.extend(fresh)
            self._pass_on(fresh)

    def _pass_on(self, events: Sequence[Event]) -> None:
        chunks: dict[Format, Any] = {}
        version = events[-1].version
        for member in list(self._members):
            chunk = chunks.get(member.format)
            if chunk is None:
                chunk = chunks[member.format] = member.format(events)
            if not member.offer(chunk, version):
                self._members.pop(member, None)

    def nudge(self) -> None:
        """Offer every member nothing, so that those who wait look around (the server goes down)."""
        for member in list(self._members):
            if not member.offer(member.format([]), self.cursor):
                self._members.pop(member, None)

    async def catch_up(self) -> None:
        """Close a hole: read the log from the cursor on. Many may call at once; one reads."""
        async with self._repairing:
            while True:
                self.behind = False
                page = await self._store.read(self.stream, self.cursor)
                if not page and await self._look():
                    page = await self._store.read(self.stream, self.cursor)
                    if not page:
                        raise self._missing(self.cursor)
                self.deliver(page)
                # A ring that came during the read may have left another hole: then behind is set again.
                if len(page) < PAGE and not self.behind:
                    return

    async def _begin(self) -> None:
        floor = self.floor
        try:
            at = await self._states.at(self.stream)
        except Gone:  # with no snapshot of it either
            at = At(self._category.fold.initial, 0)
        if at.version == 0:
            floor = (await self._ends()).floor
            at = At(at.state, floor)
        self.at, self.floor = at, floor

    async def _ends(self) -> Rendered:
        """Where the log of this stream begins and ends."""
        return await self._store.render(self.stream, (), Span(limit=0))

    async def _look(self) -> bool:
        """Begin anew if the log is not what it was; otherwise: whether it goes on behind the tail."""
        cursor = self.cursor
        ends = await self._ends()
        if ends.floor <= cursor <= ends.head:
            return cursor == self.cursor < ends.head
        log.warning("%r begins anew: its log is from %d to %d now", self, ends.floor, ends.head)
        self._states.forget(self.stream)
        await self._begin()
        self.floor = ends.floor
        self._recent.clear()
        members, self._members = list(self._members), {}
        for member in members:
            member.expel()
        return False

    def _missing(self, cursor: int) -> FoldstreamError:
        return FoldstreamError(f"the events of {self.stream} after {cursor} are not in the log, though it goes on")

    async def render(self, cursor: int, shape: Shape, limit: int = PAGE) -> Rendered:
        """The log between a reader's cursor and the tail's, at most a page. Never past the tail: members get that.

        Empty: the cursor is no place in this log (`cursor.reset`), or the tail stands elsewhere now: ask again.
        """
        if cursor > self.cursor:
            await self.catch_up()
        page = await self._store.render(self.stream, shape, Span(cursor, max(0, min(limit, self.cursor - cursor))))
        self.floor = page.floor
        if page.count == 0 and page.floor <= cursor < self.cursor:
            await self.catch_up()
            if cursor < min(self.cursor, page.head):
                raise self._missing(cursor)
        return page

    def enter(self, member: Member, cursor: int) -> bool:
        """Become a member, if what lies between ``cursor`` and the tail is at hand; it is offered first.

        False: read the log first (`render`) and come again.
        """
        if cursor > self.cursor:
            return False
        if cursor < self.cursor:
            if not self._recent or self._recent[0].version > cursor + 1:
                return False
            missing = [event for event in self._recent if event.version > cursor]
            if not member.offer(member.format(missing), self.cursor):
                return False
        self._members[member] = None
        return True

    def leave(self, member: Member) -> None:
        """Stop being a member; harmless for somebody who is none."""
        self._members.pop(member, None)
