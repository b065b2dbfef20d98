"""Socket.IO: `subscribe {buildId, lastEventId?, token?}` -> ack; then `connected`, every `update`, and `closed`.

One room for each watched stream and process. The room is a member of the stream's tail; who is in the room has
everything up to the room's cursor and gets each new event as one packet that was encoded once for all. Who is not (a
newcomer, a socket that took its packets too slowly) is a reader of the log with a task of its own until it has caught
up. The rooms are python-socketio's, kept by its in-process manager: the hub is the only fan-out between processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import anyio
import orjson
import socketio
from engineio.packet import MESSAGE, Packet
from starlette.routing import BaseRoute, Mount

from eventstore.categories import BY_NAME
from eventstore.errors import BadRequest, FoldstreamError, Gone, Invalid
from eventstore.event import Event, StreamId
from eventstore.fold import At
from eventstore.page import Span
from eventstore.text import iso_millis
from streaming import wire
from streaming.cursor import parse_cursor, reset
from streaming.guard import READ
from streaming.live import Live, build
from streaming.problem import problem
from streaming.tail import Tail

log = logging.getLogger(__name__)

NAME = "socketio"
NAMESPACE = "/"
PAGE = 200
DRAINED = 50
"""A reader of the log gets its next page when fewer packets than this wait for its socket."""


class Json:
    """orjson for python-socketio, which calls it as it would call the json module."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return orjson.loads(text)


def packets(events: Sequence[Event]) -> list[Packet]:
    """The format of a room: one packet an event. A packet caches its encoding: the sockets share it."""
    return [Packet(MESSAGE, data=text) for text in wire.updates(events)]


class Subscription:
    """One socket's wish to follow one stream, and the task that fulfils it."""

    def __init__(self, sid: str, stream: StreamId) -> None:
        self.sid = sid
        self.stream = stream
        self.scope = anyio.CancelScope()
        self.left_room = anyio.Event()
        self.cursor = 0


class Room:
    """A member of a tail on behalf of all sockets that have caught up with it."""

    format = staticmethod(packets)

    def __init__(self, sockets: Sockets, tail: Tail) -> None:
        stream = tail.stream
        self.name = f"build:{stream.id}" if stream.category == "build" else f"run:{stream}"
        self.cursor = tail.cursor
        self.users = 0
        self._tail = tail
        self._sockets = sockets
        self._inside: dict[str, Subscription] = {}

    def offer(self, chunk: list[Packet], version: int) -> bool:
        limit = self._sockets.live.limits.member_packets
        for sid, eio_sid in self._sockets.server.manager.get_participants(NAMESPACE, self.name):
            socket = self._sockets.server.eio.sockets.get(eio_sid)
            if socket is None or socket.closed:
                continue
            if socket.queue.qsize() + len(chunk) > limit:
                self.leave(sid)
                self._sockets.live.metrics.downgrades.labels(NAME).inc()
                continue
            for packet in chunk:
                socket.queue.put_nowait(packet)
        self.cursor = version
        self._sockets.live.metrics.delivered.labels(NAME).inc(len(chunk))
        if self._tail.is_final:
            for sid in list(self._inside):
                self.leave(sid)  # and its subscription says `closed`
        return True

    def expel(self) -> None:
        """Everybody out, to look where they are; the room itself stays at the end of its tail."""
        for sid in list(self._inside):
            self.leave(sid)
        self.cursor = self._tail.cursor
        self._tail.enter(self, self.cursor)

    def enter(self, subscription: Subscription) -> None:
        """The subscription has everything up to the room's cursor. Synchronous, like `Tail.enter`."""
        self._inside[subscription.sid] = subscription
        self._sockets.server.manager.basic_enter_room(subscription.sid, NAMESPACE, self.name)

    def leave(self, sid: str) -> None:
        """Out of the room; its subscription is told, with what the socket has got so far."""
        subscription = self._inside.pop(sid, None)
        if subscription is not None:
            subscription.cursor = self.cursor
            subscription.left_room.set()
            self._sockets.server.manager.basic_leave_room(sid, NAMESPACE, self.name)


class Sockets:
    """The Socket.IO server and its subscriptions."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.server = socketio.AsyncServer(
            async_mode="asgi",
            cors_allowed_origins=self._allowed,
            json=Json,
            max_http_buffer_size=100_000,
            logger=logging.getLogger("foldstream.socketio"),
            engineio_logger=logging.getLogger("foldstream.engineio"),
        )
        self.server.on("connect", self.connect)
        self.server.on("disconnect", self.disconnect)
        self.server.on("subscribe", self.subscribe)
        self.server.on("unsubscribe", self.unsubscribe)
        self._rooms: dict[StreamId, Room] = {}
        self._subscriptions: dict[str, dict[StreamId, Subscription]] = {}

    def _allowed(self, origin: str | None, environ: Mapping[str, Any]) -> bool:
        if origin is None:  # not a browser's page
            return True
        return origin in self.live.origins or origin.partition("://")[2] == environ.get("HTTP_HOST")

    async def connect(self, sid: str, environ: Mapping[str, Any], auth: Any = None) -> None:
        """Anybody may connect; rights are asked for with each subscription."""
        query = parse_qs(environ.get("QUERY_STRING", ""))
        token = auth.get("token") if isinstance(auth, Mapping) else None
        defaults = {
            "lastEventId": query.get("lastEventId", [None])[0],
            "token": token if isinstance(token, str) else query.get("token", [None])[0],
        }
        await self.server.save_session(sid, defaults)
        self._subscriptions[sid] = {}
        self.live.metrics.websockets.inc()
        self.live.metrics.connections.labels(NAME).inc()

    async def disconnect(self, sid: str, reason: str = "") -> None:
        for subscription in list(self._subscriptions.pop(sid, {}).values()):
            subscription.scope.cancel()
        self.live.metrics.websockets.dec()
        self.live.metrics.connections.labels(NAME).dec()

    async def subscribe(self, sid: str, message: Any = None) -> dict[str, Any]:
        """Ack `{ok, status, head, epoch}`, or `{ok: false, ...}` with a problem document."""
        try:
            return await self._subscribe(sid, message)
        except FoldstreamError as error:
            return {"ok": False, **problem(error)}

    async def unsubscribe(self, sid: str, message: Any = None) -> dict[str, Any]:
        """Stop following; unknown ones are fine."""
        try:
            stream = _stream(message)
        except FoldstreamError as error:
            return {"ok": False, **problem(error)}
        subscription = self._subscriptions.get(sid, {}).pop(stream, None)
        if subscription is not None:
            subscription.scope.cancel()
        return {"ok": True}

    async def _subscribe(self, sid: str, message: Any) -> dict[str, Any]:
        stream = _stream(message)
        session = await self.server.get_session(sid)
        token = message.get("token") or session.get("token")
        if token is not None and not isinstance(token, str):
            raise Invalid("token is not text", pointer="/token")
        self.live.guard.allow(token, READ, stream)
        told = message.get("lastEventId")
        if told is None:  # the handshake's value is a default for the first subscription only
            told = session.pop("lastEventId", None)
        cursor = parse_cursor(None if told is None else str(told))
        try:
            at = await self.live.states.at(stream)
        except Gone:
            at = At(BY_NAME[stream.category].fold.initial, 0)
        ends = await self.live.store.render(stream, (), Span(limit=0))
        own = self._subscriptions.get(sid)
        if own is None:
            raise BadRequest("the socket is closed")
        if stream in own:
            own.pop(stream).scope.cancel()
        if len(own) >= self.live.limits.subscriptions:
            raise Invalid(f"more than {self.live.limits.subscriptions} subscriptions on one socket")
        subscription = own[stream] = Subscription(sid, stream)
        self.live.hub.spawn(self._fulfil, subscription, cursor)
        ack = {"ok": True, "status": at.state.status, "head": ends.head, "epoch": self.live.epoch}
        no_place = reset(cursor, ends.floor, ends.head)
        return {**ack, "reset": no_place} if no_place else ack

    async def _fulfil(self, subscription: Subscription, cursor: int) -> None:
        """The life of one subscription, in the hub's task group."""
        sid, stream = subscription.sid, subscription.stream
        with subscription.scope:
            try:
                async with self.live.hub.watching(stream) as tail:
                    room = self._open_room(stream, tail)
                    try:
                        await self._follow(subscription, tail, room, cursor)
                    finally:
                        room.leave(sid)
                        self._close_room(stream, tail, room)
            except FoldstreamError as error:
                await self.server.emit("problem", {"buildId": stream.id, **problem(error)}, to=sid)
            except Exception:  # boundary: one socket's subscription
                self.live.metrics.boundary_errors.labels(NAME).inc()
                log.exception("the subscription to %s failed", stream)
                failed = FoldstreamError("the subscription failed; subscribe again with your last id")
                await self.server.emit("problem", {"buildId": stream.id, **problem(failed)}, to=sid)
        own = self._subscriptions.get(sid, {})
        if own.get(stream) is subscription:
            del own[stream]

    async def _follow(self, subscription: Subscription, tail: Tail, room: Room, cursor: int) -> None:
        sid, stream = subscription.sid, subscription.stream
        connected = {"type": "connected", "timestamp": iso_millis(self.live.now()), "head": tail.cursor}
        await self.server.emit("connected", {"buildId": stream.id, "epoch": self.live.epoch, **connected}, to=sid)
        self.live.metrics.resumes.labels(NAME, "resumed" if cursor else "started").inc()
        while True:
            while cursor != tail.cursor:
                cursor = await self._read_page(sid, tail, cursor)
            if tail.is_final:
                break
            subscription.left_room = anyio.Event()
            room.enter(subscription)
            await subscription.left_room.wait()
            cursor = subscription.cursor
        await self.server.emit("closed", {"type": "closed", "buildId": stream.id, "lastEventId": cursor}, to=sid)

    async def _read_page(self, sid: str, tail: Tail, cursor: int) -> int:
        """One page of the log into the socket's queue, when that has drained; or `reset`. The cursor after it."""
        socket = self.server.eio.sockets.get(self.server.manager.eio_sid_from_sid(sid, NAMESPACE))
        while socket is not None and not socket.closed and socket.queue.qsize() > DRAINED:
            await anyio.sleep(0.02)
        page = await tail.render(cursor, wire.update_shape(tail.stream), PAGE)
        if no_place := reset(cursor, page.floor, page.head):
            self.live.metrics.resumes.labels(NAME, "reset").inc()
            await self.server.emit("reset", {"buildId": tail.stream.id, **no_place}, to=sid)
            return int(no_place["lastEventId"])
        if socket is not None:
            for text in wire.packets(page.body):
                socket.queue.put_nowait(Packet(MESSAGE, data=text))
        return page.last

    def _open_room(self, stream: StreamId, tail: Tail) -> Room:
        room = self._rooms.get(stream)
        if room is None:
            room = self._rooms[stream] = Room(self, tail)
            tail.enter(room, room.cursor)
        room.users += 1
        return room

    def _close_room(self, stream: StreamId, tail: Tail, room: Room) -> None:
        room.users -= 1
        if room.users == 0:
            del self._rooms[stream]
            tail.leave(room)


def _stream(message: Any) -> StreamId:
    """The stream that a message names: `buildId`, or `run` for any kind."""
    if not isinstance(message, Mapping):
        raise Invalid("the message is not an object", fix='Send {"buildId": "..."}')
    run, id_ = message.get("run"), message.get("buildId")
    if isinstance(run, str):
        stream = StreamId.parse(run)
        if stream.category not in BY_NAME:
            raise Invalid(f"there is no category {stream.category!r}", pointer="/run")
        return stream
    if isinstance(id_, (str, int)) and not isinstance(id_, bool):
        return build(str(id_))
    raise Invalid("buildId is missing", fix='Send {"buildId": "..."}', pointer="/buildId")


def routes(live: Live) -> list[BaseRoute]:
    """Everything under /socket.io/."""
    sockets = Sockets(live)
    return [Mount("/socket.io", socketio.ASGIApp(sockets.server, socketio_path=""))]
