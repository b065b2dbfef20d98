"""crash_scene: what is killed and started again: a Postgres and a writer, and the journals that outlive both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

import orjson
import psycopg

from benchmarks import machine
from benchmarks.crash_audit import Append, History, Row
from eventstore.errors import CannotStart
from foldstream.services import HERE, run_postgres
from foldstream.services.process import Server

WAIT = 30.0
"""Seconds after which something that has to come is not coming."""
STARTS = 10
"""Attempts to start a server again."""

HEADS = "SELECT category || '-' || id, version FROM streams WHERE id LIKE %s"
ROWS = """
SELECT coalesce(s.category || '-' || s.id, ''), e.version, e.type, e.key, e.data
FROM events AS e LEFT JOIN streams AS s ON s.sid = e.sid AND s.part = e.part
WHERE coalesce(s.id, '') LIKE %s ORDER BY e.sid, e.version
"""


class Broken(Exception):
    """The log, or what keeps it, did not keep its word. The message says how."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it. Raises Broken when it does not come."""
    limit = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > limit:
            raise Broken(f"{what} within {WAIT:g} s")
        time.sleep(0.002)


def children(pid: int) -> set[int]:
    """The processes that ``pid`` has started and that have not ended."""
    found = set()
    for folder in machine.PROC.glob("[0-9]*"):
        with suppress(OSError):
            if int(machine.stat(int(folder.name))[machine.PARENT]) == pid and _lives(int(folder.name)):
                found.add(int(folder.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return machine.stat(pid)[0] not in "ZX"
    except OSError:
        return False


class Database:
    """A durable Postgres that keeps its data and its address when it is killed; a context, in which it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._server: Server | None = None
        self._pid = 0

    def __enter__(self) -> Database:
        with ExitStack() as stack:
            stack.callback(self._stack.close)
            self.start()
            self.wait_ready()
            stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def dsn(self) -> str:
        """The URL of its superuser."""
        assert self._server
        return self._server.url

    def start(self) -> None:
        """Start it, or start it again; it may still have to recover."""
        if self._server:
            self._server.start_again()
        else:
            server = run_postgres.running(self._folder, durable=True, places=HERE)
            self._server = self._stack.enter_context(server)
        self._pid = self._server.pid

    def wait_ready(self) -> None:
        """Until it has recovered. It may refuse to start while what was killed is not quite gone: then once more."""
        assert self._server
        for left in reversed(range(STARTS)):
            try:
                self._server.wait_ready()
            except CannotStart:
                if not left:
                    raise
                time.sleep(0.2)
                self.start()
            else:
                return

    def kill(self) -> None:
        """End every process of it at one moment: it is frozen first, so that none is born meanwhile."""
        os.kill(self._pid, signal.SIGSTOP)
        every = {self._pid, *children(self._pid)}
        for pid in every:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(_lives, every)), "Postgres did not end after kill -9")

    def kill_one(self, chance: random.Random) -> None:
        """End one of its processes that is not the first: the first has to notice, and to start all others anew."""
        with suppress(ProcessLookupError):
            os.kill(chance.choice(sorted(children(self._pid))), signal.SIGKILL)

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection]:
        """A connection, as soon as it answers."""
        found: list[psycopg.Connection] = []

        def connect() -> bool:
            with suppress(psycopg.OperationalError):
                found.append(psycopg.connect(self.dsn, connect_timeout=5))
            return bool(found)

        until(connect, "Postgres did not answer")
        with found[0] as connection:
            yield connection

    def log(self, streams: str) -> tuple[list[Row], dict[str, int]]:
        """The events and the heads of the streams whose id begins with ``streams``, at one moment."""
        for _ in range(10):
            # One of its processes may just have been killed: then all connections are cut, perhaps this one too.
            with suppress(psycopg.OperationalError), self.connected() as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                heads = connection.execute(HEADS, [streams + "%"]).fetchall()
                rows = connection.execute(ROWS, [streams + "%"]).fetchall()
                found = [Row(stream, n, type_, key, orjson.loads(data)) for stream, n, type_, key, data in rows]
                return found, dict(heads)
        raise Broken("Postgres cuts every connection")


class Writer:
    """A `crash_writer` process, and after its death the next one. Tells ``history`` what the journals say."""

    def __init__(self, dsn: str, folder: Path, seed: int) -> None:
        self.history = History()
        self._dsn = dsn
        self._folder = folder
        self._seed = seed
        self._count = 0
        self._read = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _journal(self) -> Path:
        return self._folder / f"journal-{self._count}"

    @property
    def _complaints(self) -> Path:
        return self._folder / f"stderr-{self._count}"

    def start(self, streams: str) -> None:
        """Start the next one, on streams whose names begin so. It brings to an end what has keys and no answer."""
        again = orjson.dumps([list(append) for append in self.history.open.values()]).decode()
        self._count += 1
        self._read = 0
        self._journal.touch()
        words = {
            "dsn": self._dsn,
            "journal": str(self._journal),
            "name": f"s{self._seed}w{self._count}",
            "streams": streams,
            "again": again,
        }
        argv = [sys.executable, "-m", "benchmarks.crash_writer", *(f"--{name}={word}" for name, word in words.items())]
        with self._complaints.open("wb") as complaints:
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=complaints)

    def kill(self) -> None:
        """kill -9. What it was told and could not write down, nobody has been told."""
        assert self._process
        self._process.kill()
        self._process.wait()
        self.listen()
        self._close()
        for append in list(self.history.open.values()):
            if not append.keyed:
                self.history.lose(append.name)

    def finish(self) -> None:
        """Let it answer everybody, and end."""
        assert self._process
        assert self._process.stdin
        self._process.stdin.close()
        until(lambda: self._process is None or self._process.poll() is not None, "the writer did not come to its end")
        self.listen()
        self._close()

    def _close(self) -> None:
        process, self._process = self._process, None
        if process and process.stdin:
            process.stdin.close()

    def listen(self) -> list[str]:
        """Read what it has written since; the names of the appends that it was told are recorded."""
        if self._process and self._process.poll() not in (None, 0, -signal.SIGKILL):
            raise Broken(f"the writer gave up: {self._complaints.read_text()[-2000:]}")
        with self._journal.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        return [name for line in lines.splitlines() if (name := self._note(*orjson.loads(line)))]

    def _note(self, what: str, name: str, *words: object) -> str | None:
        match what, words:
            case "begun", (str(stream), int(size), bool(keyed)):
                self.history.begin(Append(name, stream, size, keyed))
            case "recorded", (list(versions),):
                self.history.answer(name, versions)
                return name
            case "refused", ():
                self.history.refuse(name)
            case "unknown", ():
                self.history.lose(name)
            case _:
                raise Broken(f"the journal has a line that nobody writes: {what} {name} {words}")
        return None

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._close()
