"""viewers: a process that is many viewers of one stream, on bare sockets, and knows when each event arrived.

`python -m benchmarks.viewers sse|socketio URL STREAM VIEWERS EVENTS SECONDS` prints a line when all of them are
connected and one when each has got ``EVENTS`` events (or the seconds are over), and ends when its stdin does. Events
carry the time at which they were posted as `"t":<nanoseconds since 1970>`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.case import percentile

STAMP = re.compile(rb'"t": ?(\d{19})')
HELLO = 0.1
"""Seconds between two groups of viewers that connect, as they would not all come in the same millisecond."""
GROUP = 50


class Crowd:
    """All viewers of this process. ``latencies`` in seconds, one for each event and viewer."""

    def __init__(self, stream: str, viewers: int, events: int) -> None:
        self.stream = stream
        self.latencies: list[float] = []
        self.all_ready, self.all_delivered = asyncio.Event(), asyncio.Event()
        self._missing_viewers = viewers
        self._expected = viewers * events

    def ready(self) -> None:
        """One more viewer follows the stream."""
        self._missing_viewers -= 1
        if self._missing_viewers == 0:
            self.all_ready.set()

    def delivered(self, text: bytes) -> None:
        """A viewer got this text, which may hold an event."""
        found = STAMP.search(text)
        if found:
            self.latencies.append((time.time_ns() - int(found[1])) / 1e9)
            if len(self.latencies) == self._expected:
                self.all_delivered.set()


class Viewer(asyncio.Protocol):
    """One connection. Subclasses say what to ask for and how to read the answer."""

    def __init__(self, crowd: Crowd, host: str) -> None:
        self.crowd = crowd
        self.host = host
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request())

    def request(self) -> bytes:
        raise NotImplementedError


class SseViewer(Viewer):
    """`GET /events/{id}`; the chunks of the transfer encoding lie between frames and do no harm."""

    def request(self) -> bytes:
        return f"GET /events/{self.crowd.stream} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()

    def data_received(self, data: bytes) -> None:
        *frames, self.rest = (self.rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for frame in frames:
            if b"event: connected" in frame:
                self.crowd.ready()
            else:
                self.crowd.delivered(frame)


class SocketIoViewer(Viewer):
    """Engine.IO 4 over WebSocket by hand: open, connect, subscribe, answer pings."""

    def __init__(self, crowd: Crowd, host: str) -> None:
        super().__init__(crowd, host)
        self.upgraded = False

    def request(self) -> bytes:
        return (
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {self.host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def data_received(self, data: bytes) -> None:
        self.rest += data
        if not self.upgraded:
            head, blank, rest = self.rest.partition(b"\r\n\r\n")
            if not blank:
                return
            if b" 101 " not in head[:20]:
                raise ConnectionError(f"the server answered {head[:200]!r}")
            self.upgraded, self.rest = True, rest
        while (text := self.next_text()) is not None:
            self.take(text)

    def next_text(self) -> bytes | None:
        """The next frame's text (a server's frames are not masked, these are never in parts), None if incomplete."""
        if len(self.rest) < 4:
            return None
        start, length = 2, self.rest[1]
        if length == 126:
            start, length = 4, int.from_bytes(self.rest[2:4], "big")
        elif length == 127:
            start, length = 10, int.from_bytes(self.rest[2:10], "big")
        if len(self.rest) < start + length:
            return None
        text, self.rest = self.rest[start : start + length], self.rest[start + length :]
        return text

    def take(self, text: bytes) -> None:
        if text.startswith(b"42"):
            self.crowd.delivered(text)
        elif text.startswith(b"43"):
            self.crowd.ready()
        elif text.startswith(b"40"):
            self.send(f'420["subscribe",{{"buildId":"{self.crowd.stream}"}}]')
        elif text.startswith(b"0"):
            self.send("40")
        elif text == b"2":
            self.send("3")

    def send(self, text: str) -> None:
        """A client's frame is masked; a mask of zeros leaves it as it is."""
        self.transport.write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode())


KINDS: dict[str, type[Viewer]] = {"sse": SseViewer, "socketio": SocketIoViewer}


async def main(kind: str, url: str, stream: str, viewers: int, events: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    crowd = Crowd(stream, viewers, events)
    address = urlsplit(url)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)  # nothing is ever written to it: readable means closed
    for number in range(viewers):
        await loop.create_connection(
            lambda: KINDS[kind](crowd, address.netloc), address.hostname or "", address.port or 80
        )
        if number % GROUP == GROUP - 1:
            await asyncio.sleep(HELLO)
    await crowd.all_ready.wait()
    say(ready=viewers)
    if events:
        await _wait(crowd.all_delivered, ended, seconds)
        p50, p99 = (percentile(crowd.latencies or [0], share) for share in (0.5, 0.99))
        say(deliveries=len(crowd.latencies), p50=p50, p99=p99)
    await ended.wait()


async def _wait(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def say(**words: float) -> None:
    """To the process that started us."""
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    which, where, what, many, count, limit = sys.argv[1:]
    uvloop.run(main(which, where, what, int(many), int(count), float(limit)))
