"""The command line as a person or a script uses it: the real program in a process of its own; and bad weather between
it and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

NOWHERE = "http://127.0.0.1:9"
"""Port 9 of this machine: nobody listens there."""


def environment(url: str = NOWHERE, **more: str) -> dict[str, str]:
    """What the program finds in its environment: little, so that nothing of the tester's machine decides."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "FOLDSTREAM_URL": url, "PYTHONUTF8": "1", **more}


def program(*argv: str) -> list[str]:
    """The command line that runs `foldstream` with these arguments."""
    return [sys.executable, "-m", "foldstream", *argv]


@dataclass(frozen=True)
class Done:
    """How a program ended and what it wrote."""

    code: int
    out: bytes
    err: bytes

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def talk(self) -> list[str]:
        return self.err.decode().splitlines()


async def done(process: asyncio.subprocess.Process, stdin: bytes = b"", seconds: float = 30) -> Done:
    """Write to its stdin, close it, and wait for the end."""
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode is not None
    return Done(process.returncode, out or b"", err or b"")


async def start(argv: list[str], env: Mapping[str, str] | None = None, **options: object) -> asyncio.subprocess.Process:
    """Start a program in a session of its own: no terminal, and a process group that can be signalled."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    return await asyncio.create_subprocess_exec(
        *argv, env=dict(env or environment()), start_new_session=True, **{**pipes, **options}
    )


async def foldstream(*argv: str, url: str = NOWHERE, stdin: bytes = b"", **env: str) -> Done:
    """Run `foldstream` to its end."""
    return await done(await start(program(*argv), environment(url, **env)), stdin)


@dataclass
class Weather:
    """Between a client and a server. ``fault`` decides over each request by its number (1, 2, ...) and its first line.

    ""      it passes
    "503"   it is refused, with Retry-After: 0; any other status likewise
    "deaf"  it is taken and never answered
    "drop"  it reaches the server, but the answer is lost
    "cut"   the answer breaks off after its first event
    "hold"  the answer is held back, as a buffering proxy does with SSE
    """

    upstream: str = NOWHERE
    fault: Callable[[int, str], str] = lambda number, line: ""
    url: str = ""
    seen: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
            body = await reader.readexactly(length)
            self.seen.append(lines[0].removesuffix(" HTTP/1.1"))
            self.bodies.append(body)
            await self._answer(self.fault(len(self.seen), self.seen[-1]), lines, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def _answer(self, fault: str, lines: list[str], body: bytes, writer: asyncio.StreamWriter) -> None:
        if fault == "deaf":
            await asyncio.Event().wait()
        if fault.isdigit():
            writer.write(f"HTTP/1.1 {fault} Bad Weather\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        place = urlsplit(self.upstream)
        upstream, to_upstream = await asyncio.open_connection(place.hostname, place.port)
        try:
            kept = [line for line in lines if line and not line.lower().startswith(("host:", "connection:"))]
            head = "\r\n".join([*kept, f"Host: {place.netloc}", "Connection: close", "", ""])
            to_upstream.write(head.encode() + body)
            passed = b""
            while chunk := await upstream.read(4096):
                passed += chunk
                if fault in ("", "cut"):
                    writer.write(chunk)
                    await writer.drain()
                if fault == "cut" and b"\nid: " in passed:
                    return
            if fault == "hold":
                await asyncio.Event().wait()
        finally:
            await _close(to_upstream)


@asynccontextmanager
async def weather(upstream: str, fault: Callable[[int, str], str]) -> AsyncIterator[Weather]:
    """A way to ``upstream`` on which things go wrong."""
    between = Weather(upstream, fault)
    async with _listening(between.take) as between.url:
        yield between


@asynccontextmanager
async def telling(*answers: bytes, hold: bool = False) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that says over SSE what it was told to say, one answer a connection, right or wrong, and then closes it
    or holds it; its address, and the heads of the requests."""
    heads: list[str] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write(answers[min(len(heads), len(answers)) - 1])
        await writer.drain()
        if hold:
            await asyncio.Event().wait()

    async with _listening(take) as url:
        yield url, heads


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def _listening(
    take: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def take_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await take(reader, writer)
        finally:
            await _close(writer)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(take_and_close(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Terminal:
    """A terminal with a program in its foreground: what a person sees, and the keys."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._keyboard, self._tty = os.openpty()
        self.resize(columns, rows)
        self.shown = b""
        self._news = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    def resize(self, columns: int, rows: int) -> None:
        """Make it so large; the kernel tells the foreground."""
        termios.tcsetwinsize(self._keyboard, (rows, columns))

    def type(self, keys: bytes) -> None:
        """Press keys: b"\\x03" is Ctrl-C."""
        os.write(self._keyboard, keys)

    async def __aenter__(self) -> Terminal:
        asyncio.get_running_loop().add_reader(self._keyboard, self._read)
        return self

    async def __aexit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._keyboard)
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._keyboard)
        os.close(self._tty)

    async def start(self, argv: list[str], env: Mapping[str, str] | None = None, *, stderr: int | None = None) -> None:
        """Start a program here, in a new session that this terminal controls."""

        def take_terminal() -> None:
            kept = os.dup(2) if stderr is not None else None
            os.login_tty(os.dup(self._tty))
            if kept is not None:
                os.dup2(kept, 2)

        self.process = await asyncio.create_subprocess_exec(
            *argv, env={"TERM": "xterm", **(env or environment())}, preexec_fn=take_terminal, stderr=stderr
        )

    async def until(self, text: bytes, *, after: bytes = b"", seconds: float = 15) -> None:
        """Wait for ``text`` to be shown, after something else that has been."""
        try:
            async with asyncio.timeout(seconds):
                while text not in self.shown.partition(after)[2] if after else text not in self.shown:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in {self.shown!r}") from None

    async def ended(self, seconds: float = 15) -> int:
        """The exit code, and everything is shown."""
        assert self.process is not None
        code = await asyncio.wait_for(self.process.wait(), seconds)
        os.set_blocking(self._keyboard, False)
        while self._read():
            pass
        return code

    def _read(self) -> bool:
        chunk = b""
        with contextlib.suppress(BlockingIOError, OSError):
            chunk = os.read(self._keyboard, 65536)
        self.shown += chunk
        self._news.set()
        return bool(chunk)
