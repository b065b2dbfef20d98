"""What the log is made of: `StreamId`, `NewEvent` (a fact somebody wants to record), `Event` (a recorded fact).

Pure. ``Event.json`` holds the bytes exactly as stored; they travel to the clients without being decoded and encoded
again. ``Event.data`` decodes them for whoever needs the meaning (folds do, transports do not).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import orjson

from eventstore.errors import Invalid

CATEGORY_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
STREAM_ID = re.compile(r"(?!\.\.?$)[A-Za-z0-9._:-]{1,128}")  # . and .. mean other things in URLs and paths
EVENT_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9._:-]{0,49}")
KEY = re.compile(r"[\x21-\x7e]{1,200}")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Data = Mapping[str, Any]


class _Name(NamedTuple):
    category: str
    id: str


class StreamId(_Name):
    """The name of one stream, written ``build-27``: its category and its id (opaque text, 1-128 of A-Za-z0-9._:-)."""

    # A tuple: an append looks its stream up in nine places, and Python hashes a tuple without calling into Python.
    __slots__ = ()

    def __new__(cls, category: str, id: str) -> StreamId:
        """Raises Invalid."""
        if not CATEGORY_NAME.fullmatch(category):
            raise Invalid(f"{category!r} is not a category name", pointer="/category")
        if not STREAM_ID.fullmatch(id):
            raise Invalid(
                f"{id[:40]!r} is not an id",
                fix="Use 1 to 128 characters of A-Z a-z 0-9 . _ : - (not . or .. alone)",
                pointer="/id",
            )
        return super().__new__(cls, category, id)

    def __str__(self) -> str:
        return f"{self.category}-{self.id}"

    @classmethod
    def parse(cls, name: str) -> StreamId:
        """``build-27`` -> StreamId("build", "27"). Raises Invalid."""
        category, dash, id_ = name.partition("-")
        if not dash:
            raise Invalid(f"{name[:40]!r} is not a stream name", fix="Write it as category-id, such as build-27")
        return cls(category, id_)


class Position(NamedTuple):
    """Where an event stands among all streams: (transaction, number). For server-side followers only, never for
    clients.

    The pair, not the number alone: transactions commit out of order, and a reader that remembers a bare number passes
    events that become visible later.
    """

    transaction: int
    number: int


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to be recorded.

    key          appending the same key to the same stream again records nothing and answers with the first recording.
    at           when it happened, if the producer knows better than the store's clock (spools, imports); aware.
    request_id   what caused it, for tracing; travels with the event. traceparent: the same as W3C Trace Context.
    """

    type: str
    data: Data = field(default_factory=dict)
    key: str | None = None
    at: datetime | None = None
    request_id: str | None = None
    traceparent: str | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """A recorded fact. (A struct: a page of a thousand is made in a tenth of the time that dataclasses take.)

    version     1, 2, 3 ... without holes within its stream: the public id, ``lastEventId`` and SSE ``id:``.
    position    the order among all streams, for server-side followers (`Store.read_all`).
    json        ``data`` as stored: one JSON object, UTF-8.
    at          when it happened (aware, UTC, microseconds).
    schema      the number of the shape that ``data`` has in its category.
    """

    stream: StreamId
    version: int
    position: Position
    type: str
    json: bytes
    at: datetime
    request_id: str | None = None
    traceparent: str | None = None
    schema: int = 1

    @property
    def data(self) -> dict[str, Any]:
        """``json``, decoded anew at each call."""
        decoded: dict[str, Any] = orjson.loads(self.json)
        return decoded
