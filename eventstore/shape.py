"""Shape: how an event is written as bytes, said once, for two interpreters.

Pure. Theory. An event on the wire is text with holes: literal bytes, and facts of the event between them. A `Shape` is
that text. `written` fills it in Python, for events that are at hand; a store may fill it where the events lie (the
Postgres store makes one SQL expression of it), so that a page of a stream arrives as bytes that are ready to be sent
and no event is ever taken apart or put together on the way. Both fill it with the same bytes: that is their contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import orjson

from eventstore.event import Event
from eventstore.text import millis


class Field(Enum):
    """A fact of an event, as text.

    VERSION      decimal.
    TYPE         as it is, as are STREAM, the id of the stream, and TRACEPARENT: their characters need no escaping.
    DATA         the stored JSON, on one line: SQL may have written it over several, and line breaks stand between
                 tokens only (inside a string JSON escapes them).
    AT           RFC 3339 in UTC with milliseconds, cut, not rounded.
    REQUEST_ID   a JSON string; the id of the stream where nobody said what caused the event.
    """

    VERSION = "version"
    TYPE = "type"
    STREAM = "stream"
    DATA = "data"
    AT = "at"
    REQUEST_ID = "request_id"
    TRACEPARENT = "traceparent"


class Given(NamedTuple):
    """A field between two literals, all of which is left out where the event does not have the field."""

    before: bytes
    field: Field
    after: bytes


Shape = tuple[bytes | Field | Given, ...]
"""Literal bytes (UTF-8) and fields, in order."""


def joined(*pieces: bytes | Field | Given) -> Shape:
    """A shape of these pieces, neighbouring literals as one."""
    shape: list[bytes | Field | Given] = []
    for piece in pieces:
        if isinstance(piece, bytes) and shape and isinstance(shape[-1], bytes):
            shape[-1] += piece
        else:
            shape.append(piece)
    return tuple(shape)


Fill = Callable[[Event], bytes]


def written(shape: Shape, events: Iterable[Event]) -> list[bytes]:
    """Each event in this shape."""
    template, fills = _compiled(shape)
    return [template % tuple([fill(event) for fill in fills]) for event in events]


@lru_cache
def _compiled(shape: Shape) -> tuple[bytes, tuple[Fill, ...]]:
    template, fills = b"", []
    for piece in shape:
        if isinstance(piece, bytes):
            template += piece.replace(b"%", b"%%")
        else:
            template += b"%b"
            fills.append(_given(piece) if isinstance(piece, Given) else _FILL[piece])
    return template, tuple(fills)


def _given(piece: Given) -> Fill:
    before, fact, after = piece.before, _FILL[piece.field], piece.after

    def fill(event: Event) -> bytes:
        found = fact(event)
        return b"%b%b%b" % (before, found, after) if found else b""

    return fill


def _data(event: Event) -> bytes:
    json = event.json
    if b"\n" in json or b"\r" in json:
        json = json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json


_FILL: dict[Field, Fill] = {
    Field.VERSION: lambda event: b"%d" % event.version,
    Field.TYPE: lambda event: event.type.encode(),
    Field.STREAM: lambda event: event.stream.id.encode(),
    Field.DATA: _data,
    Field.AT: lambda event: millis(event.at),
    Field.REQUEST_ID: lambda event: orjson.dumps(event.request_id or event.stream.id),
    Field.TRACEPARENT: lambda event: (event.traceparent or "").encode(),
}
