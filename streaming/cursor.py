"""step(cursor, version): the one rule of delivery. It stands here and in the JS client; both pass
tests/vectors/cursor.json.

Pure. A cursor is the version of the last event a reader has; because versions are dense, the reader alone can tell
whether what arrives comes next, came before, or leaves a hole. A hole is closed from the log, never skipped.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from eventstore.errors import BadRequest

MAX_VERSION = 2**53 - 1
"""The largest integer that JSON readers in browsers keep exact."""


class Step(Enum):
    """What to do with an event: take it (NEXT), drop it (STALE), read the log first (GAP)."""

    NEXT = "next"
    STALE = "stale"
    GAP = "gap"


def step(cursor: int, version: int) -> Step:
    """Compare the version of what arrived with the version of what was last taken."""
    if version == cursor + 1:
        return Step.NEXT
    return Step.STALE if version <= cursor else Step.GAP


def parse_cursor(text: str | None, *, name: str = "lastEventId") -> int:
    """A cursor from a query, a header or a message: a non-negative integer, absent or empty = 0. Raises BadRequest."""
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_VERSION):
        raise BadRequest(
            f"{name} is {text[:40]!r}, which is not an event id",
            fix=f"Send the id of the last event you have, a whole number from 0 on, or leave {name} out.",
            pointer=f"/{name}",
        )
    return int(text)


PAST_THE_END = "the cursor is ahead of the log"


def reset(cursor: int, floor: int, head: int) -> dict[str, Any] | None:
    """What to tell a reader whose cursor is no place in a log from ``floor`` to ``head``; None: it is one.

    ``lastEventId`` is where it has to go on. What is up to the floor has left the log, and what is left begins there. A
    cursor ahead of the head is of another log: everything follows, from the beginning.
    """
    if cursor < floor:
        return {"type": "reset", "reason": "retention", "floor": floor, "lastEventId": floor}
    if cursor > head:
        return {"type": "reset", "reason": PAST_THE_END, "lastEventId": 0}
    return None
