"""Listing: which runs a list is asked for: `?category=&project=&status=&since=&until=&before=`.

Pure. Whatever is misspelt is refused by name: a filter that is not understood would show another list than was meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from eventstore.categories import BY_NAME
from eventstore.category import MOST_PROJECT
from eventstore.errors import BadRequest, FoldstreamError, Invalid
from eventstore.event import StreamId
from eventstore.snapshots import Query


def query(asked: Mapping[str, str], limit: int) -> Query:
    """The query of these parameters; empty ones count as absent. Raises Invalid, BadRequest."""
    given = {name: text for name, text in asked.items() if text}
    category = given.get("category", "build")
    if category not in BY_NAME:
        raise Invalid(
            f"there is no category {category[:40]!r}", fix=f"Send one of {', '.join(BY_NAME)}.", pointer="/category"
        )
    statuses, status = BY_NAME[category].statuses, given.get("status")
    if status is not None and status not in statuses:
        raise Invalid(
            f"a {category} is never {status[:40]!r}", fix=f"Send one of {', '.join(statuses)}.", pointer="/status"
        )
    project = given.get("project")
    if project is not None and (len(project) > MOST_PROJECT or "\0" in project):
        raise Invalid(f"no project has a name of {len(project)} characters", pointer="/project")
    since, until = _time(given, "since"), _time(given, "until")
    if since is not None and until is not None and since >= until:
        raise BadRequest(
            "until is not later than since: nothing is between them",
            fix="Send a later until, or leave one of them out.",
            pointer="/until",
        )
    return Query(category, status, project, since, until, _before(given.get("before"), category), limit)


def _time(given: Mapping[str, str], name: str) -> datetime | None:
    """RFC 3339; a time without a zone, and a date, count as UTC."""
    text = given.get(name)
    if text is None:
        return None
    try:
        # A plus that was not escaped arrives as a blank.
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{name} is {text[:40]!r}, not a time",
            fix="Write it as 2025-07-22T07:15:20Z or 2025-07-22.",
            pointer=f"/{name}",
        ) from None


def _before(text: str | None, category: str) -> StreamId | None:
    if text is None:
        return None
    try:
        before = StreamId.parse(text)
    except FoldstreamError:
        before = None
    if before is None or before.category != category:
        raise BadRequest(
            f"before is {text[:40]!r}, not the name of a {category}",
            fix="Send the `next` of the page before.",
            pointer="/before",
        )
    return before
