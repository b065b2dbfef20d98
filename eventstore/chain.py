"""The hash chain of a stream, as `schema.sql` makes it (event_bytes, chain), for whoever reads or writes whole streams.

Pure. Each event's hash covers everything it says and the hash before it, back to the name of the stream. So whoever
changes, removes or adds an event behind our back has to make every later hash anew, and then differs from every copy
that was exported before.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from struct import Struct

from eventstore.event import StreamId

_VERSION_AND_TIME = Struct(">iq").pack
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def beginning(stream: StreamId) -> bytes:
    """What stands before the hash of a stream's first event."""
    return str(stream).encode()


def link(
    before: bytes,
    version: int,
    at: datetime,
    schema: int,
    type_: str,
    key: str | None,
    request_id: str | None,
    traceparent: str | None,
    data: bytes,
) -> bytes:
    """The hash (32 bytes) of an event that stands behind one with the hash ``before``. data: the stored bytes."""
    words = f"{type_}\n{schema}\n{key or ''}\n{request_id or ''}\n{traceparent or ''}\n".encode()
    micros = (at - _POSTGRES_EPOCH) // _MICROSECOND
    return sha256(b"%b%b%b%b" % (before, _VERSION_AND_TIME(version, micros), words, data)).digest()
