"""Which of the waiting appends go into the next commit. Pure: the writer asks, and does the I/O.

Group commit without a timer: while one batch is being written, appends queue up; then the next batch takes what is
there. An idle writer therefore commits at once, and a busy one commits many appends for the price of one.

Rules of a batch, beside its size:
- Appends to one stream keep their order: once one of them has to wait, the later ones of that stream wait behind it.
- A stream that is being written (`busy`) has to wait: its announcements stay in the order of its versions.
- An append with `expected` must be the first of its stream: it is compared with the version before the batch.
- The same key on the same stream goes into different batches: the second one then finds the first recording.
- An append that is to be `alone` (work joins its transaction, or its batch was refused) gets a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from eventstore.admit import Draft
from eventstore.event import StreamId

MOST = 500
"""Events in one commit, unless a single append has more."""


@dataclass(eq=False, slots=True)
class Group:
    """One append that waits to be written: its events are recorded all together or not at all."""

    stream: StreamId
    drafts: Sequence[Draft]
    expected: int | None = None
    alone: bool = False


G = TypeVar("G", bound=Group)


@dataclass(frozen=True, slots=True)
class Plan(Generic[G]):
    """batch: to be written in one commit. alone: each to be written in its own. left: to be planned again, in order."""

    batch: list[G]
    alone: list[G]
    left: list[G]


def plan(waiting: Sequence[G], *, busy: Collection[StreamId] = (), most: int = MOST, lanes: int = 1) -> Plan[G]:
    """What may be written now.

    busy   streams that are being written at this moment.
    most   events in the batch (0: no batch now). A single append may exceed it when it is the first.
    lanes  how many appends may be written alone now.
    """
    if len(waiting) == 1 and most > 0 and not busy and not waiting[0].alone:
        return Plan([*waiting], [], [])  # an idle producer: nothing stands in its way, and it waits for us
    batch: list[G] = []
    alone: list[G] = []
    left: list[G] = []
    stopped = set(busy)
    keys: dict[StreamId, set[str]] = {}
    room = most
    for group in waiting:
        if stopped and group.stream in stopped:
            left.append(group)
            continue
        if group.alone:
            starts = len(alone) < lanes and group.stream not in keys
            (alone if starts else left).append(group)
            stopped.add(group.stream)
            continue
        fits = room >= len(group.drafts) or (room == most > 0)
        if not fits:
            room = -1  # nothing smaller may overtake: a big append would wait for ever
        before = keys.get(group.stream)
        if fits and _may_follow(group, before):
            batch.append(group)
            room -= len(group.drafts)
            if before is None:
                keys[group.stream] = set(_keys(group))
            else:
                before.update(_keys(group))
        else:
            left.append(group)
            stopped.add(group.stream)
    return Plan(batch, alone, left)


def _may_follow(group: Group, before: set[str] | None) -> bool:
    """``before``: the keys of the appends to the same stream in this batch; None when it is the first."""
    return before is None or (group.expected is None and before.isdisjoint(_keys(group)))


def _keys(group: Group) -> list[str]:
    return [draft.key for draft in group.drafts if draft.key is not None]
