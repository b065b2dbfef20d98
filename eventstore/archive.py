"""Archive: events as lines of text (NDJSON), byte-exact, so that streams can leave a log and come back.

Pure. One line an event, with everything that is stored of it but its place among all streams, which is given anew:

    {"stream":"build-27","version":1,"type":"plan_started","at":"2025-07-22T07:13:50.000000Z","schema":1,
     "key":"k","requestId":"r","traceparent":"00-...","hash":"<64 hex digits>","data":{...}}          (on one line)

What is NULL is left out. ``data`` is the stored text itself, spliced in unchanged: 1.0 stays 1.0, keys keep their order
and their repetitions. A text with line breaks between its tokens (SQL may have stored it so) would not be one line: it
stands as a JSON string under ``text`` instead, last like ``data``.

The hashes chain the events of a stream from its name on (`eventstore.chain`): a line that was changed, removed from the
middle, added or moved does not fit the line before it. Nothing but a copy of the last hash can tell that a stream's
*last* lines are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec
import orjson

from eventstore import chain
from eventstore.errors import Invalid
from eventstore.event import START, Event, StreamId

_DATA = b',"data":'


class Archived(NamedTuple):
    """An event with what readers of the log are not shown. hash: None where it is yet to be made."""

    event: Event
    key: str | None = None
    hash: bytes | None = None


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    """A line without its data."""

    stream: str
    version: int
    type: str
    at: datetime
    schema: int
    hash: str
    key: str | None = None
    requestId: str | None = None
    traceparent: str | None = None
    text: str | None = None


_decode = msgspec.json.Decoder(_Head).decode
_stream = lru_cache(maxsize=65_536)(StreamId.parse)


def line(archived: Archived) -> bytes:
    """The line of an event that has its hash, with its line break."""
    event, key, hash_ = archived
    assert hash_ is not None
    at = event.at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    head = f'{{"stream":"{event.stream}","version":{event.version},"type":"{event.type}","at":"{at}Z"'
    head += f',"schema":{event.schema}'
    for name, value in (("key", key), ("requestId", event.request_id), ("traceparent", event.traceparent)):
        if value is not None:
            head += f',"{name}":{orjson.dumps(value).decode()}'
    head += f',"hash":"{hash_.hex()}"'
    if b"\n" in event.json or b"\r" in event.json:
        return b'%b,"text":%b}\n' % (head.encode(), orjson.dumps(event.json.decode()))
    return b"%b%b%b}\n" % (head.encode(), _DATA, event.json)


def parse(text: bytes) -> Archived:
    """The event of one line, with or without its line break. Raises ValueError when it is not such a line.

    That ``data`` is one JSON object is for the store to say; that it is unchanged, for the hash.
    """
    text = text.removesuffix(b"\n").removesuffix(b"\r")
    # Inside a JSON string a quote is escaped, so the first of these is the field.
    head, found, data = text.partition(_DATA)
    if found:
        head += b"}"
        if not data.endswith(b"}"):
            raise ValueError("it has no end")
        data = data[:-1]
    read = _decode(head)
    if (read.text is None) == (not found):
        raise ValueError("it needs either data, as its last field, or text")
    if read.at.tzinfo is None:
        raise ValueError("its time has no zone")
    if read.text is not None:
        data = read.text.encode()
    event = Event(
        _stream(read.stream),
        read.version,
        START,
        read.type,
        data,
        read.at.astimezone(UTC),
        read.requestId,
        read.traceparent,
        read.schema,
    )
    return Archived(event, read.key, bytes.fromhex(read.hash))


def parsed(lines: Iterable[bytes]) -> Iterator[Archived]:
    """The events of a file. Raises Invalid, naming the line."""
    for number, text in enumerate(lines, 1):
        try:
            yield parse(text)
        except Invalid as error:  # the stream's name
            raise Invalid(f"line {number}: {error.detail}", fix=error.fix) from error
        except (ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise Invalid(
                f"line {number} is not an event as `foldstream export` writes it: {error}",
                fix="Import the file as it was exported: other programs write the same JSON in other bytes.",
            ) from error


class Tail:
    """The end of a stream that is being read: what has to come next, and whether what comes is that."""

    __slots__ = ("hash", "version")

    def __init__(self, stream: StreamId) -> None:
        self.version = 0
        self.hash = chain.beginning(stream)

    def take(self, archived: Archived) -> None:
        """Go on by one event. Raises ValueError when it is not the next one, or not as it was when it was hashed."""
        event, key, hash_ = archived
        if event.version != self.version + 1:
            raise ValueError(f"version {event.version} comes where {self.version + 1} is expected")
        made = chain.link(
            self.hash,
            event.version,
            event.at,
            event.schema,
            event.type,
            key,
            event.request_id,
            event.traceparent,
            event.json,
        )
        if hash_ is not None and hash_ != made:
            raise ValueError(
                f"version {event.version} has the hash {hash_.hex()[:16]}..., and what stands there makes "
                f"{made.hex()[:16]}...: it, or the event before it, was changed"
            )
        self.version, self.hash = event.version, made
