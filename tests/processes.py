"""Real foldstream processes for tests: started, asked, killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import SocketStream
from httpx2 import AsyncClient, HTTPError

SECONDS_TO_START = 30


class Foldstream:
    """One `foldstream COMMAND ...` process; ``url`` once it is ready."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self._folder = folder
        self._env = {**os.environ, "FOLDSTREAM_DATA_DIR": str(folder), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    async def start(self) -> None:
        """Start, and wait until the first request would be answered."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = open(self._folder / "process.log", "ab")  # noqa: SIM115  # the child's, closed with it
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foldstream", *self.arguments, "--json"],
                env=self._env,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        with anyio.fail_after(SECONDS_TO_START):
            line = await anyio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True)
        assert line, f"{self.arguments} ended: {self.log[-2000:]}"
        self.url = json.loads(line).get("url", "")

    @property
    def log(self) -> str:
        return (self._folder / "process.log").read_text()

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """Send the signal and wait for the end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        with anyio.fail_after(15):
            code = await anyio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@asynccontextmanager
async def running(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Foldstream]:
    """A process that is stopped at the end, whatever happened."""
    foldstream = Foldstream(folder, *arguments, env=env)
    try:
        await foldstream.start()
        yield foldstream
    finally:
        if foldstream.process is not None and foldstream.process.stdout and not foldstream.process.stdout.closed:
            await foldstream.kill(signal.SIGTERM)


class Cutter:
    """A TCP proxy on loopback that cuts its connections when told, or at random after so many chunks."""

    def __init__(self, target: str, chance: random.Random, *, cut_after: int = 0) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._chance = chance
        self._cut_after = cut_after
        self.url = ""
        self.cuts = 0
        self._scopes: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Cutter]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            self.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
            tasks.start_soon(listener.serve, self._carry)
            yield self
            tasks.cancel_scope.cancel()

    def cut(self) -> None:
        """Cut everything now."""
        for scope in list(self._scopes):
            self.cuts += 1
            scope.cancel()

    async def _carry(self, client: SocketStream) -> None:
        with anyio.CancelScope() as scope, suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            self._scopes.add(scope)
            async with client, await anyio.connect_tcp(*self._target) as server, anyio.create_task_group() as tasks:
                tasks.start_soon(self._pump, client, server, scope, False)
                await self._pump(server, client, scope, True)
                scope.cancel()
        self._scopes.discard(scope)

    async def _pump(self, source: SocketStream, sink: SocketStream, scope: anyio.CancelScope, counts: bool) -> None:
        left = self._chance.randrange(1, self._cut_after) if self._cut_after and counts else -1
        with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                chunk = await source.receive()
                left -= 1
                if left == 0:  # in the middle of what was sent
                    await sink.send(chunk[: self._chance.randrange(len(chunk) + 1)])
                    self.cuts += 1
                    scope.cancel()
                    return
                await sink.send(chunk)
        scope.cancel()


async def until_status(url: str, build: str, *wanted: str, seconds: float = 40) -> dict[str, object]:
    """Poll the status until it is one of ``wanted``; outages in between are fine."""
    async with AsyncClient(base_url=url) as client:
        last: dict[str, object] = {}
        with anyio.fail_after(seconds):
            while True:
                with suppress(HTTPError):
                    last = (await client.get(f"/api/builds/{build}/status")).json()
                    if last.get("status") in wanted:
                        return last
                await anyio.sleep(0.05)
