"""tracker: what the server is to be told of one job. Filled by the job's threads, emptied by `delivery`'s.

Theory: **the job never waits for the telling.** What is to be told stands in a list of bounded length; when it is full,
because the server is away, the tape goes on dropping old lines and counting them. So memory is bounded, nothing blocks,
and the page says what it lacks.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from eventstore.errors import CannotStart, FoldstreamError, Unreachable
from eventstore.event import NewEvent, StreamId
from foldstream.commands.running.child import Ending
from foldstream.commands.running.tape import Tape
from foldstream.settings import ClientSettings, read_client

MOST_EVENTS = 1000
"""That wait to be sent: four minutes of flood, 8 MiB of text."""
BATCH = 10
"""Events in one request: below a server's limit of 1 MB whatever the text is made of."""


def tracker(id_: str, environ: Mapping[str, str], started: dict[str, Any]) -> Tracker:
    """For the run ``build-{id_}`` on the server that the environment names. Raises Invalid, CannotStart."""
    return Tracker(StreamId("build", id_), read_client(environ), started)


def write_address(file: str, url: str) -> None:
    """Let a script know where the run is shown. Raises CannotStart."""
    try:
        Path(file).write_text(f"{url}\n")
    except OSError as error:
        raise CannotStart(
            f"cannot write {file}: {error.strerror or error}", fix="Choose another --url-file, one that can be written."
        ) from error


def last_event(ending: Ending, tail: str) -> NewEvent:
    """What the page shows at the end. ``tail``: the last lines of the output."""
    code = ending.code if ending.code >= 0 else 128 - ending.code  # as a shell tells it
    data: dict[str, Any] = {"exitCode": code, "duration": round(ending.seconds, 3)}
    number = ending.stopped_by or max(0, -ending.code)
    if number:
        data["signal"] = signal.Signals(number).name
    if ending.stopped_by:
        return NewEvent("run_cancelled", {**data, "message": f"Cancelled by {data['signal']}"})
    if code == 0:
        return NewEvent("run_completed", {**data, "message": f"Finished in {ending.seconds:.1f} s"})
    how = ending.error or (f"Killed by {data['signal']}" if number else f"Failed with exit code {code}")
    return NewEvent("run_failed", {**data, "message": how, "error": ending.error or tail or how})


class Tracker:
    """One job and its run on the server. ``started``: the data of its first event."""

    def __init__(self, run: StreamId, settings: ClientSettings, started: dict[str, Any]) -> None:
        self.run, self.settings = run, settings
        self.failed: FoldstreamError | None = None  # why nothing more can be delivered
        self.refusal: FoldstreamError | None = None  # why some events could not
        self.ended = False
        self.wake: Callable[[], None] = lambda: None
        self._nonce = os.urandom(6).hex()
        self._told = 0
        self._refused = 0
        self._rung = False
        self._lock = threading.Lock()
        self._tape = Tape()
        self._waiting: deque[NewEvent] = deque()
        self._thread = threading.Thread(target=self._deliver, name="delivery", daemon=True)
        self._add(NewEvent("run_started", started))

    @property
    def url(self) -> str:
        """The page that shows the run."""
        return f"{self.settings.url}/ui/runs/{self.run.id}"

    @property
    def json(self) -> str:
        """The same for programs."""
        return orjson.dumps({"run": str(self.run), "url": self.url}).decode()

    @property
    def undelivered(self) -> int:
        """How many events the server has not got."""
        return len(self._waiting) + self._refused

    @property
    def trouble(self) -> FoldstreamError:
        """Why it has not got them."""
        slow = Unreachable(f"the server at {self.settings.url} did not take them in time")
        return self.failed or self.refusal or slow

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def hear(self, stream: str, chunk: bytes) -> None:
        """Take in what the job has written."""
        with self._lock:
            if self.failed is not None:
                return
            self._tape.hear(stream, chunk)
            rung, self._rung = self._rung, True
        if not rung:
            self.wake()

    def finish(self, ending: Ending, seconds: float) -> None:
        """Tell the end, and wait for the rest to be sent, so long at most."""
        with self._lock:
            for data in self._tape.rest():
                self._add(NewEvent("run_output", data))
            self._add(last_event(ending, self._tape.tail()))
            self.ended = True
        self.wake()
        self._thread.join(seconds)

    def collect(self, now: float) -> float | None:
        """Take from the tape what the pace allows; seconds until there may be more, None: not before `wake`."""
        with self._lock:
            self._rung = False
            if self.ended or self.failed is not None:
                return None
            if len(self._waiting) >= MOST_EVENTS:
                return 1.0
            data = self._tape.take(now)
            if data is None:
                return self._tape.wait(now) or None
            self._add(NewEvent("run_output", data))
            return self._tape.wait(now)

    def batch(self) -> list[NewEvent]:
        """What is to be sent next."""
        with self._lock:
            return [event for _, event in zip(range(BATCH), self._waiting, strict=False)]

    def sent(self, count: int) -> None:
        """So many have arrived."""
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()

    def refuse(self, error: FoldstreamError) -> None:
        """The next one was refused, and would be again."""
        with self._lock:
            self._waiting.popleft()
            self._refused += 1
            self.refusal = error

    def fail(self, error: FoldstreamError) -> None:
        """Nothing more can be delivered."""
        with self._lock:
            self.failed = error

    def _add(self, event: NewEvent) -> None:
        # The keys make a repeated request harmless; the nonce keeps a second job with the same --id apart.
        self._told += 1
        self._waiting.append(replace(event, key=f"{self._nonce}.{self._told}", at=datetime.now(UTC)))

    def _deliver(self) -> None:
        # Late, and here: an HTTP client takes longer to load than many a job takes to run.
        delivery = importlib.import_module("foldstream.commands.running.delivery")
        try:
            delivery.deliver(self)
        except Exception as error:  # noqa: BLE001  # the boundary: whatever the telling does, the job is not disturbed
            self.fail(FoldstreamError(f"telling the server failed: {error!r}"))
