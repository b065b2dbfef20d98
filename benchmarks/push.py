"""push: one stream, many viewers: the CPU of a delivery, how long it takes, and the memory of a viewer.

Each case starts a server of its own, lets the viewers of one process connect, and posts events over HTTP at a steady
pace that saturates nobody. The latency is from before the POST to the viewer's socket: ours holds an fsync, the others
keep nothing. CPU is user and system time of the server's process, from before the first event until the last delivery.
"""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks import machine
from benchmarks.case import Bench, Case, Figure, Ratio
from benchmarks.place import disk_folder
from foldstream.services import local_services
from foldstream.services.process import environment

EVENT_BYTES = 300
EVENTS_A_SECOND = 10
PATIENCE = 30.0
"""Seconds until a server must be ready, viewers connected, or the last event delivered."""


class Size(NamedTuple):
    """How much: viewers of the stream, seconds of posting, and viewers who come and go before anything is measured."""

    viewers: int
    seconds: float
    warm: int


SIZE, QUICK_SIZE = Size(300, 8.0, 20), Size(20, 0.5, 0)


def pushed(name: str, kind: str, server: Sequence[str], env: Mapping[str, str], size: Size) -> Iterator[Figure]:
    """One server, one kind of viewers."""
    events = round(size.seconds * EVENTS_A_SECOND)
    stream = uuid4().hex  # nobody has posted to it: the viewers get what is posted now, and nothing else
    with _child(server, env) as (process, said):
        url = said["url"]
        _post(url, "warm", events=1)
        if size.warm:
            with _viewers(kind, url, "warm", size.warm, 0):
                pass
        empty = machine.resident_bytes(process.pid)
        with _viewers(kind, url, stream, size.viewers, events) as viewers:
            time.sleep(size.seconds / 10)  # whatever the server still does for the newcomers
            full = machine.resident_bytes(process.pid)
            before = machine.cpu_seconds(process.pid)
            _post(url, stream, events=events)
            told = _line(viewers, PATIENCE + PATIENCE)
            cpu = machine.cpu_seconds(process.pid) - before
    if told["deliveries"] != events * size.viewers:
        raise RuntimeError(f"{name}: {told['deliveries']} of {events * size.viewers} deliveries arrived")
    yield Figure(f"{name}: server CPU", cpu / told["deliveries"] * 1e6, "us/delivery")
    yield Figure(f"{name}: p50", told["p50"] * 1e3, "ms")
    yield Figure(f"{name}: p99", told["p99"] * 1e3, "ms")
    yield Figure(f"{name}: memory", (full - empty) / size.viewers / 1024, "KiB/viewer")


@contextmanager
def _viewers(kind: str, url: str, stream: str, viewers: int, events: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of viewers, all of them connected."""
    limit = events / EVENTS_A_SECOND + PATIENCE
    words = (kind, url, stream, viewers, events, limit)
    with _child([sys.executable, "-m", "benchmarks.viewers", *map(str, words)], {}) as (process, _):
        yield process


@contextmanager
def _child(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A process of ours that says a line when it is ready; ended when the block is left."""
    process = subprocess.Popen(
        argv,
        env={**environment(), **env},  # no setting of this shell changes what is measured
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C reaches us, and through us the children
    )
    assert process.stdin
    assert process.stdout
    try:
        yield process, _line(process, PATIENCE)
    finally:
        process.stdin.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _line(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """What the process says next; its stdout has no buffer, so that select() knows."""
    assert process.stdout
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise RuntimeError(f"{process.args!r} says nothing")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended")
    told: dict[str, Any] = json.loads(line)
    return told


def _post(url: str, stream: str, *, events: int) -> None:
    """Append events over one connection, at a steady pace; each says when it was posted."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    started = time.monotonic()
    for number in range(events):
        time.sleep(max(0.0, started + number / EVENTS_A_SECOND - time.monotonic()))
        connection.request("POST", f"/api/builds/{stream}/events", _event(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"POST was answered {answer.status}: {body[:500]!r}")
    connection.close()


ENVELOPE = len(
    '{"id":99,"type":"run_output","data":{"t":1234567890123456789,"message":""},"timestamp":"2025-07-22T07:15:20.107Z",'
    f'"buildId":"{uuid4().hex}","requestId":"{uuid4().hex}"}}'
)
MESSAGE = ("step output line 0123456789 abcdefghijklmnopqrstuvwxyz " * 8)[: EVENT_BYTES - ENVELOPE]


def _event() -> bytes:
    """As a viewer gets it, it is about EVENT_BYTES long."""
    return json.dumps({"type": "run_output", "data": {"t": time.time_ns(), "message": MESSAGE}}).encode()


@contextmanager
def opened(quick: bool) -> Iterator[Mapping[str, Case]]:
    """See `Bench.open`."""
    size = QUICK_SIZE if quick else SIZE
    with disk_folder() as folder, local_services(folder) as services:
        env = {
            "DATABASE_URL": services.database_url,
            "REDIS_URL": services.redis_url,
            "FOLDSTREAM_DATA_DIR": str(folder),
        }
        foldstream = _python("foldstream", "serve", "--port", "0", "--insecure", "--migrate", "--json")
        servers: tuple[tuple[str, str, list[str], dict[str, str]], ...] = (
            ("foldstream SSE", "sse", foldstream, env),
            ("sse-starlette", "sse", _python("benchmarks.plain_sse"), {}),
            ("foldstream Socket.IO", "socketio", foldstream, env),
            ("python-socketio", "socketio", _python("benchmarks.plain_socketio"), {}),
        )
        yield {name: partial(pushed, name, kind, argv, more, size) for name, kind, argv, more in servers}


def _python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


BENCH = Bench(
    name="push",
    conditions=(
        f"one server process, one stream, {SIZE.viewers} viewers ({QUICK_SIZE.viewers} if quick), "
        f"{EVENTS_A_SECOND} events/s of {EVENT_BYTES} bytes posted over HTTP; loopback, no TLS; "
        "foldstream commits each event to Postgres first, the others keep nothing"
    ),
    open=opened,
    ratios=tuple(
        Ratio(f"foldstream {ours}: {what}", f"{other}: {what}")
        for ours, other in (("SSE", "sse-starlette"), ("Socket.IO", "python-socketio"))
        for what in ("server CPU", "p50", "p99", "memory")
    ),
)
