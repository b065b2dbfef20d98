"""wire: an event as bytes. Encoded once for each format; the same bytes go to every member.

Pure. ``data`` is spliced in as it was stored, never decoded. Formats:
  answer_json   what REST returns:      {"id":6,"type":"task_completed","data":{...},"timestamp":"..."}
  push_json     what live clients get:  the same and "buildId", "requestId"
  sse           push_json as one Server-Sent Event with its id
  update        push_json as one Socket.IO `update`, already an Engine.IO packet's text
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import orjson
from sse_starlette import ServerSentEvent

from eventstore.event import START, Event, StreamId
from eventstore.text import iso_millis


def answer_json(event: Event) -> bytes:
    """The event as REST shows it."""
    return b"%b}" % _open_json(event)


def push_json(event: Event) -> bytes:
    """The event as live clients get it: what REST shows, and whose it is."""
    stream = event.stream
    owner = b"buildId" if stream.category == "build" else b"streamId"
    request_id = orjson.dumps(event.request_id or stream.id)
    trace = b',"traceparent":"%b"' % event.traceparent.encode() if event.traceparent else b""
    return b'%b,"%b":"%b","requestId":%b%b}' % (_open_json(event), owner, stream.id.encode(), request_id, trace)


def _open_json(event: Event) -> bytes:
    # The type is of [A-Za-z0-9._:-] and needs no escaping.
    at = str(iso_millis(event.at))
    json = event.json
    if b"\n" in json or b"\r" in json:
        # Written by SQL, pretty-printed: line breaks stand between tokens only (in a string they are escaped), and they
        # would cut a frame in two.
        json = json.replace(b"\n", b" ").replace(b"\r", b" ")
    return b'{"id":%d,"type":"%b","data":%b,"timestamp":"%b"' % (
        event.version,
        event.type.encode(),
        json,
        at.encode(),
    )


def sse(events: Sequence[Event]) -> bytes:
    """Unnamed events (a plain `onmessage` sees them), each with its version as id. Stored JSON has no line breaks."""
    return b"".join([b"id: %d\ndata: %b\n\n" % (event.version, push_json(event)) for event in events])


def sse_control(name: str, data: dict[str, Any], *, retry_ms: int | None = None) -> bytes:
    """A named frame without an id: it moves no cursor and a plain `onmessage` does not see it."""
    return ServerSentEvent(orjson.dumps(data).decode(), event=name, retry=retry_ms, sep="\n").encode()


def updates(events: Sequence[Event]) -> list[str]:
    """One Socket.IO packet a event, for the default namespace: 2["update",{...}]."""
    return [f'2["update",{push_json(event).decode()}]' for event in events]


def page_json(stream: StreamId, events: Sequence[Event], cursor: int, **rest: Any) -> bytes:
    """The answer of the events routes: the events spliced into their envelope."""
    owner = "buildId" if stream.category == "build" else "streamId"
    head = orjson.dumps({owner: stream.id})[:-1]
    tail = orjson.dumps({"lastEventId": cursor, **rest})[1:]
    return b'%b,"events":[%b],%b' % (head, b",".join(map(answer_json, events)), tail)


def ndjson(events: Sequence[Event]) -> bytes:
    """One line an event."""
    return b"".join([b"%b\n" % answer_json(event) for event in events])


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
    return stream, [Event(stream, row[0], START, *row[1:]) for row in rows]
