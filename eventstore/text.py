"""How times are written in answers and frames. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

import orjson


@overload
def iso_millis(at: datetime) -> str: ...
@overload
def iso_millis(at: None) -> None: ...
def iso_millis(at: datetime | None) -> str | None:
    """2025-07-22T07:15:20.107Z: RFC 3339 in UTC with milliseconds, cut, not rounded, so that it never lies ahead."""
    return None if at is None else millis(at).decode()


def millis(at: datetime) -> bytes:
    """The same as bytes."""
    there = at if at.tzinfo is UTC else at.astimezone(UTC)
    text = orjson.dumps(there)  # in quotes, with microseconds unless there are none: three times as fast as isoformat
    return text[1:24] + b"Z" if there.microsecond else text[1:20] + b".000Z"
