"""new_events(): what somebody posted, as events to append: one `{type, data, key?, timestamp? ...}`, a list of them,
or NDJSON.

Everything a body can get wrong is answered with a problem that names the place; nothing is recorded then.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request

from eventstore.admit import MAX_APPEND
from eventstore.errors import BadRequest, Invalid
from eventstore.event import KEY, NewEvent


class Posted(msgspec.Struct, forbid_unknown_fields=True):
    """One event of a body."""

    type: str
    data: dict[str, Any] = {}
    key: str | None = None
    timestamp: datetime | None = None
    requestId: str | None = None
    traceparent: str | None = None


_one = msgspec.json.Decoder(Posted)
_many = msgspec.json.Decoder(list[Posted])
SHAPE = 'Send {"type": "...", "data": {...}}, a list of such objects, or one such object a line (application/x-ndjson).'


async def new_events(request: Request) -> tuple[list[NewEvent], int | None]:
    """The events of the body and the version that the query expects the stream to be at (None: any)."""
    body = await request.body()
    posted = _lines(body) if _is_ndjson(request) else _array_or_object(body)
    if not posted:
        raise Invalid("the body holds no event", fix=SHAPE)
    if len(posted) > MAX_APPEND:
        raise Invalid(f"{len(posted)} events at once; the most is {MAX_APPEND}", fix="Send them in several requests.")
    key = request.headers.get("idempotency-key")
    if key is not None and not (KEY.fullmatch(key) and len(key) <= 190):  # the rest is for :1, :2 ...
        raise BadRequest("Idempotency-Key is not 1 to 190 visible ASCII characters", fix="Send a UUID, for example.")
    state = request.scope.get("state", {})
    request_id, traceparent = state.get("sent_request_id"), state.get("traceparent")
    news = [
        NewEvent(
            one.type,
            one.data,
            _nth(key, index) if one.key is None else one.key,
            one.timestamp,
            request_id if one.requestId is None else one.requestId,
            traceparent if one.traceparent is None else one.traceparent,
        )
        for index, one in enumerate(posted)
    ]
    return news, _expected(request)


def _nth(key: str | None, index: int) -> str | None:
    """The header names the whole request; each event of it needs a key of its own."""
    return None if key is None else key if index == 0 else f"{key}:{index}"


def _expected(request: Request) -> int | None:
    text = request.query_params.get("expected")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadRequest(f"expected is {text[:40]!r}, not a version", fix="Send the stream's version, 0 for a new one.")
    return int(text)


def _is_ndjson(request: Request) -> bool:
    return "ndjson" in request.headers.get("content-type", "")


def _array_or_object(body: bytes) -> list[Posted]:
    try:
        if body.lstrip()[:1] == b"[":
            return _many.decode(body)
        return [_one.decode(body)]
    except msgspec.ValidationError as error:
        raise _invalid(error, "") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", fix=SHAPE) from error


def _lines(body: bytes) -> list[Posted]:
    posted = []
    for number, line in enumerate(body.splitlines(), 1):
        if line.strip():
            try:
                posted.append(_one.decode(line))
            except msgspec.ValidationError as error:
                raise _invalid(error, f"/line/{number}") from error
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadRequest(f"line {number} is not JSON: {error}", fix=SHAPE) from error
    return posted


def _invalid(error: msgspec.ValidationError, where: str) -> Invalid:
    """msgspec says: Expected `str`, got `int` - at `$[3].type`; the path becomes a JSON pointer."""
    text, _, path = str(error).partition(" - at `$")
    pointer = path.rstrip("`").replace("[", "/").replace("]", "").replace(".", "/")
    return Invalid(text, fix=SHAPE, pointer=where + pointer)
