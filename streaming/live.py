"""Live: what every transport works with, in one value; `foldstream.service` makes it, `routes(live)` takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from eventstore.event import StreamId
from eventstore.states import States
from eventstore.store import Index, Log
from streaming.guard import Guard
from streaming.hub import Hub
from streaming.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = 1_000_000
    member_bytes: int = 1_000_000
    member_packets: int = 1_000
    subscriptions: int = 128
    heartbeat: float = 15.0
    write_deadline: float = 10.0
    wait: float = 25.0
    retry_ms: int = 2000


@dataclass(frozen=True, slots=True)
class Live:
    """store and index: the log. states: its meaning. hub: its live ends. epoch: which log this is.

    origins: besides the server's own, the web origins that may connect. closing: set when the server goes down.
    """

    store: Log
    index: Index
    states: States
    hub: Hub
    guard: Guard
    metrics: Metrics
    epoch: str
    now: Callable[[], datetime]
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    closing: anyio.Event = field(default_factory=anyio.Event)


def build(id_: str) -> StreamId:
    """The stream of a build id as it stands in a path. Raises Invalid."""
    return StreamId("build", id_)
