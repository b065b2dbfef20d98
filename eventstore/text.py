"""How times are written in answers and frames. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_millis(at: datetime | None) -> str | None:
    """2025-07-22T07:15:20.107Z: RFC 3339 in UTC with milliseconds, cut, not rounded, so that it never lies ahead."""
    if at is None:
        return None
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
