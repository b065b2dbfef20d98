"""wire: an event as bytes. Each format is stated once, as a `Shape`; the same bytes go to every member.

Pure. ``data`` is spliced in as it was stored, never decoded. Live events are written here, once for each format; pages
of the log are written by the store in the same shapes. Formats:
  ANSWER    what REST returns:      {"id":6,"type":"task_completed","data":{...},"timestamp":"..."}
  push      what live clients get:  the same and "buildId", "requestId", "traceparent" where there is one
  sse       push as one Server-Sent Event with its id
  update    push as one Socket.IO `update`, already an Engine.IO packet's text
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import orjson
from sse_starlette import ServerSentEvent

from eventstore.event import START, Event, StreamId
from eventstore.shape import Field, Given, Shape, joined, written
from eventstore.upcast import lifted

_OPEN = joined(
    *(b'{"id":', Field.VERSION, b',"type":"', Field.TYPE, b'","data":', Field.DATA),
    *(b',"timestamp":"', Field.AT, b'"'),
)
ANSWER = joined(*_OPEN, b"}")
LISTED = joined(*ANSWER, b",")
LINE = joined(*ANSWER, b"\n")

_PUSH = {
    owner: joined(
        *(*_OPEN, b',"%b":"' % owner, Field.STREAM, b'","requestId":', Field.REQUEST_ID),
        *(Given(b',"traceparent":"', Field.TRACEPARENT, b'"'), b"}"),
    )
    for owner in (b"buildId", b"streamId")
}
_SSE = {owner: joined(b"id: ", Field.VERSION, b"\ndata: ", *push, b"\n\n") for owner, push in _PUSH.items()}
_UPDATE = {owner: joined(b'2["update",', *push, b"]\n") for owner, push in _PUSH.items()}


def _owner(stream: StreamId) -> bytes:
    return b"buildId" if stream.category == "build" else b"streamId"


def sse_shape(stream: StreamId) -> Shape:
    """An unnamed event (a plain `onmessage` sees it) with its version as id."""
    return _SSE[_owner(stream)]


def update_shape(stream: StreamId) -> Shape:
    """A Socket.IO packet for the default namespace, 2["update",{...}], on a line of its own (see `packets`)."""
    return _UPDATE[_owner(stream)]


def push_json(event: Event) -> bytes:
    """The event as live clients get it: what REST shows, and whose it is."""
    return written(_PUSH[_owner(event.stream)], [event])[0]


def sse(events: Sequence[Event]) -> bytes:
    """Frames of one stream's events."""
    return b"".join(written(sse_shape(events[0].stream), events)) if events else b""


def sse_control(name: str, data: dict[str, Any], *, retry_ms: int | None = None, id_: int | None = None) -> bytes:
    """A named frame: a plain `onmessage` does not see it, and without an id it moves no cursor."""
    told = None if id_ is None else str(id_)
    return ServerSentEvent(orjson.dumps(data).decode(), event=name, id=told, retry=retry_ms, sep="\n").encode()


def updates(events: Sequence[Event]) -> list[str]:
    """One Socket.IO packet an event, of one stream."""
    return packets(b"".join(written(update_shape(events[0].stream), events))) if events else []


def packets(body: bytes) -> list[str]:
    """The packets of a page in `update_shape`. No packet has a line break in it."""
    return body.decode().split("\n")[:-1]


def page_json(stream: StreamId, body: bytes, cursor: int, **rest: Any) -> bytes:
    """The answer of the events routes: a page of LISTED events spliced into its envelope."""
    head = orjson.dumps({_owner(stream).decode(): stream.id})[:-1]
    tail = orjson.dumps({"lastEventId": cursor, **rest})[1:]
    return b'%b,"events":[%b],%b' % (head, body[:-1], tail)


# The bus speaks MessagePack: bytes stay bytes. Positions do not travel: whoever needs them reads the log.
_to_bus = msgspec.msgpack.Encoder()
_from_bus = msgspec.msgpack.Decoder(tuple[str, list[tuple[int, str, bytes, datetime, str | None, str | None, int]]])


def bus_message(stream: StreamId, events: Sequence[Event]) -> bytes:
    """Events of one stream, for the other processes."""
    rows = [(e.version, e.type, e.json, e.at, e.request_id, e.traceparent, e.schema) for e in events]
    return _to_bus.encode((str(stream), rows))


def from_bus(message: bytes) -> tuple[StreamId, list[Event]]:
    """The reverse of bus_message. Raises ValueError for anything else."""
    name, rows = _from_bus.decode(message)
    stream = StreamId.parse(name)
    return stream, lifted([Event(stream, row[0], START, *row[1:]) for row in rows])
