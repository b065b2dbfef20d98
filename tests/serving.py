"""A real server for tests: the application over a given store and bus, on a free port, in this event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
import socketio
from httpx2 import AsyncClient, Timeout

from eventstore import Event, NewEvent, StreamId
from eventstore.states import States
from eventstore.stores.memory import MemoryStore
from foldstream.serve import listen, serve
from foldstream.service import Service, new_id
from streaming.app import create_app
from streaming.bus import Bus
from streaming.buses.memory import MemoryBus
from streaming.guard import Guard
from streaming.hub import Hub
from streaming.live import Limits, Live
from streaming.metrics import Metrics
from streaming.token import Signer
from tests.projection import snapshots_of

F27 = [
    {name: event[name] for name in ("type", "data", "timestamp")}
    for event in json.loads((Path(__file__).parent / "fixtures" / "f27.json").read_text())["events"]
]
"""Build 27 of the source documents, as somebody posts it."""

SECRET = "a secret of tests " * 4


@dataclass(frozen=True)
class Served:
    """A server that answers at ``url``."""

    url: str
    live: Live
    store: Any
    client: AsyncClient

    async def append(self, id_: str, *types: str, **data: Any) -> list[Event]:
        """Append events without data straight to the store."""
        events = [NewEvent(type_, data) for type_ in types]
        return cast("list[Event]", await self.store.append(StreamId("build", id_), events))


class Announcer:
    """Passes on to a hub that is made after the store."""

    def __init__(self) -> None:
        self.to: list[Callable[[Sequence[Event]], None]] = []

    def __call__(self, events: Sequence[Event]) -> None:
        for announce in self.to:
            announce(events)


@asynccontextmanager
async def serving(
    store: Any,
    announcer: Announcer,
    *,
    bus: Bus | None = None,
    signer: Signer | None = None,
    limits: Limits | None = None,
    origins: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (),
    epoch: str = "epoch-of-the-test",
    sweep_seconds: float = 0.05,
    snapshots: Any = None,
) -> AsyncIterator[Served]:
    """Serve ``store`` until the context ends."""
    metrics = Metrics()
    states = States(store, snapshots or snapshots_of(store))
    hub = Hub(store, states, bus or MemoryBus(), metrics, sweep_seconds=sweep_seconds)
    announcer.to.append(hub.announce)

    def now() -> datetime:
        return datetime.now(UTC)

    live = Live(
        store=store,
        index=store,
        states=states,
        hub=hub,
        guard=Guard(signer, now),
        metrics=metrics,
        epoch=epoch,
        now=now,
        origins=origins,
        limits=limits or Limits(),
    )

    async def checks() -> dict[str, bool]:
        return {"postgres": True, "redis": True, "queue": True}

    app = create_app(live, checks=checks, new_id=new_id, hosts=hosts)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop, ready = anyio.Event(), anyio.Event()

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.run)
            await serve(Service(app, live, cast("Any", None)), listener, stop, ready.set)
            tasks.cancel_scope.cancel()

    # A task of its own: a fixture is left in another task than it was entered in, which task groups do not allow.
    running = asyncio.create_task(run())
    try:
        with anyio.fail_after(10):
            await ready.wait()
        async with AsyncClient(base_url=url, timeout=Timeout(10, read=30)) as client:
            yield Served(url, live, store, client)
    finally:
        stop.set()
        announcer.to.remove(hub.announce)
        await asyncio.wait_for(running, 5)


@asynccontextmanager
async def serving_memory(**options: Any) -> AsyncIterator[Served]:
    """Serve a new MemoryStore."""
    announcer = Announcer()
    async with serving(MemoryStore(announce=announcer), announcer, **options) as served:
        yield served


async def frames(client: AsyncClient, path: str, **headers: str) -> AsyncIterator[dict[str, str]]:
    """The frames of an SSE answer as `{field: value}`. 204 (you have all: stop) counts as a `closed`."""
    async with client.stream("GET", path, headers=headers) as response:
        if response.status_code == 204:
            yield {"event": "closed", "data": "{}"}
            return
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        rest = b""
        async for chunk in response.aiter_raw():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                # Only \n ends a line here, as in a browser: text may hold U+2028.
                fields = (line.partition(":") for line in block.decode().split("\n") if line)
                yield {name: value.removeprefix(" ") for name, _, value in fields}


class Sio:
    """A real Socket.IO client over WebSocket, and everything it received in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = socketio.AsyncClient(reconnection=False)
        self.received: list[tuple[str, Any]] = []
        self._news = anyio.Event()
        self.client.on("*", self._receive)

    async def _receive(self, name: str, *data: Any) -> None:
        self.received.append((name, data[0] if data else None))
        self._news.set()

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [data for name, data in self.received if name == "update"]

    async def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Wait for what is received to satisfy ``condition``."""
        with anyio.fail_after(seconds):
            while not condition():
                await self._news.wait()
                self._news = anyio.Event()

    async def until_event(self, name: str) -> Any:
        """The data of the first event of this name."""
        await self.until(lambda: any(received == name for received, _ in self.received))
        return next(data for received, data in self.received if received == name)


@asynccontextmanager
async def connected(url: str, *, transports: Sequence[str] = ("websocket",), **options: Any) -> AsyncIterator[Sio]:
    """A connected client."""
    sio = Sio(url)
    await sio.client.connect(url, transports=list(transports), wait_timeout=10, **options)
    try:
        yield sio
    finally:
        await leave(sio.client)


async def leave(client: socketio.AsyncClient) -> None:
    """Disconnect. On HTTP polling without a goodbye: python-engineio lets the poll that waits hang for 25 seconds."""
    if client.eio.current_transport == "polling":
        await client.eio.disconnect(abort=True)
    else:
        await client.disconnect()
