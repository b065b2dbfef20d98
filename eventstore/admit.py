"""admit(): what may enter the log. Every append passes here first, whatever door it came through, before any I/O.

Pure. Refuses what Postgres or a browser could not hold (NUL, lone surrogates, NaN, absurd depth, too many bytes),
resolves aliases, lets the category complete and check the data, and encodes it once: these bytes are what is stored and
what every client receives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from eventstore.categories import BY_NAME
from eventstore.errors import Invalid
from eventstore.event import EVENT_TYPE, KEY, TRACEPARENT, NewEvent, StreamId

MAX_DATA_BYTES = 64 * 1024
MAX_APPEND = 1000


@dataclass(eq=False, slots=True)
class Draft:
    """An event that may be stored: checked, completed, encoded; it lacks only its place in the log. Never changed."""

    type: str
    json: bytes
    key: str | None
    at: datetime | None
    request_id: str | None
    traceparent: str | None = None
    schema: int = 1


def admit(stream: StreamId, events: Sequence[NewEvent], *, max_data_bytes: int = MAX_DATA_BYTES) -> list[Draft]:
    """The drafts of ``events``, in order. Raises Invalid, naming the event and the field, if any of them is refused."""
    category = BY_NAME.get(stream.category)
    if category is None:
        known = ", ".join(sorted(BY_NAME))
        raise Invalid(f"there is no category {stream.category!r}", fix=f"Use one of: {known}", pointer="/category")
    if not events:
        raise Invalid("an append needs at least one event", fix="Send one event or a list of them.")
    if len(events) > MAX_APPEND:
        raise Invalid(f"{len(events)} events in one append; the most is {MAX_APPEND}", fix="Split the list.")
    seen: set[str] = set()
    drafts = []
    for index, event in enumerate(events):
        where = f"/{index}" if len(events) > 1 else ""
        if not (isinstance(event.type, str) and EVENT_TYPE.fullmatch(event.type)):
            raise Invalid(
                f"{str(event.type)[:60]!r} is not an event type",
                fix="Use 1 to 50 characters of A-Z a-z 0-9 . _ : - that begin with a letter, such as task_started.",
                pointer=f"{where}/type",
            )
        if not isinstance(event.data, Mapping):
            raise Invalid(
                "data is not a JSON object", fix='Send data as an object: {"...": ...}', pointer=f"{where}/data"
            )
        if event.key is not None:
            _check_key(event.key, where)
            if event.key in seen:
                raise Invalid(f"the key {event.key!r} stands twice in one append", pointer=f"{where}/key")
            seen.add(event.key)
        type_ = category.aliases.get(event.type, event.type)
        try:
            data = category.check(type_, event.data)
        except Invalid as error:
            error.pointer = f"{where}/data{error.pointer}"
            raise
        drafts.append(
            Draft(
                type=type_,
                json=_encode(data, max_data_bytes, where),
                key=event.key,
                at=None if event.at is None else _utc(event.at, f"{where}/timestamp"),
                request_id=None if event.request_id is None else _request_id(event.request_id, where),
                traceparent=None if event.traceparent is None else _traceparent(event.traceparent, where),
                schema=category.schema,
            )
        )
    return drafts


def _check_key(key: str, where: str) -> None:
    if not (isinstance(key, str) and KEY.fullmatch(key)):
        raise Invalid(
            "the key is not 1 to 200 visible ASCII characters",
            fix="Use something like a UUID, or task-3:completed.",
            pointer=f"{where}/key",
        )


def _utc(at: datetime, pointer: str) -> datetime:
    if at.tzinfo is None:
        raise Invalid("the time has no zone", fix="Send it as 2025-07-22T07:15:20.107Z", pointer=pointer)
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise Invalid("the time lies outside the years 1 to 9999", pointer=pointer) from error


def _request_id(request_id: str, where: str) -> str:
    if not (isinstance(request_id, str) and KEY.fullmatch(request_id)):
        raise Invalid("the request id is not 1 to 200 visible ASCII characters", pointer=f"{where}/requestId")
    return request_id


def _traceparent(traceparent: str, where: str) -> str:
    if not (isinstance(traceparent, str) and TRACEPARENT.fullmatch(traceparent)):
        raise Invalid(
            "the traceparent is not one of W3C Trace Context",
            fix="Send 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, or leave it out.",
            pointer=f"{where}/traceparent",
        )
    return traceparent


def _encode(data: Mapping[str, Any], max_data_bytes: int, where: str) -> bytes:
    try:
        json = orjson.dumps(data if isinstance(data, dict) else dict(data))
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError: surrogates, depth, big integers, odd types
        raise Invalid(f"data cannot be written as JSON: {error}", pointer=f"{where}/data") from error
    if len(json) > max_data_bytes:
        raise Invalid(
            f"data is {len(json):,} bytes; the most is {max_data_bytes:,}",
            fix="Put the bulk into an artefact and its link into the event.",
            pointer=f"{where}/data",
        )
    # Both checks are exact but slow, so they run only where the encoded text shows that they could fail:
    # NaN and the infinities are written as null, a NUL as \u0000.
    if b"null" in json or b"\\u0000" in json:
        _refuse_unstorable(data, f"{where}/data")
    return json


def _refuse_unstorable(value: object, pointer: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise Invalid(f"{value} is not a JSON number", fix="Send null or leave the field out.", pointer=pointer)
    if isinstance(value, str) and "\x00" in value:
        raise Invalid("text with a NUL character cannot be stored", fix="Remove U+0000.", pointer=pointer)
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_unstorable(name, pointer)
            _refuse_unstorable(item, f"{pointer}/{name}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_unstorable(item, f"{pointer}/{index}")
