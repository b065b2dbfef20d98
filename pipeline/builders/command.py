"""A builder that runs a program: its output, line by line, is the build's live log; it never outlives its time.

The program is called with two more arguments, the folder to build and the folder to fill, in a process group of its own
and with an environment that holds nothing but a path: no secret of the worker reaches what is built. Lines may begin
with their stage, as in ``[compile] app.js``. Whoever cancels the builder gets the whole group ended, first politely.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from asyncio.subprocess import STDOUT, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import orjson

from eventstore.errors import StepFailed
from pipeline.builder import STAGES
from pipeline.planner import Report
from pipeline.workspace import Workspace

MESSAGES = {
    "dependencies": ("Installing dependencies...", "📦"),
    "compile": ("Building application...", "🔨"),
    "optimize": ("Optimizing files...", "✨"),
}
LINE_CHARACTERS = 240
OUTPUT_BYTES = 1024 * 1024
LOG_BYTES = 500
"""What one event may carry of the log, so that it stays under 1 KB; the whole log belongs into the artefact store."""


class CommandBuilder:
    """Runs ``command SOURCE OUT``. grace: seconds between SIGTERM and SIGKILL."""

    def __init__(self, command: Sequence[str], *, grace: float = 0.3) -> None:
        self._command = tuple(command)
        self._grace = grace

    async def __call__(self, workspace: Workspace, report: Report) -> Path:
        """A `pipeline.builder.Builder`."""
        out = (workspace.base / f".out-{secrets.token_hex(8)}").resolve()
        out.mkdir(parents=True)
        log = _Log(report, hidden=str(out.parent))
        try:
            code = await self._run(workspace, out, log)
            if code:
                await log.flush()
                raise StepFailed(log.reason() or f"the builder ended with exit code {code}", code="BUILD")
            await log.end()
            _swap(out, workspace.dist)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return workspace.dist

    async def _run(self, workspace: Workspace, out: Path, log: _Log) -> int:
        with _pipes() as (output, output_end, life, _life_end):
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(workspace.root.resolve()),
                str(out),
                stdin=life,
                stdout=output_end,
                stderr=STDOUT,
                cwd=workspace.root,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(out.parent), "TMPDIR": str(out.parent)},
                start_new_session=True,
            )
            output_end.close()
            life.close()
            pump = asyncio.create_task(_pump(output, log))
            ended = asyncio.create_task(process.wait())
            try:
                await asyncio.wait({pump, ended}, return_when=asyncio.FIRST_COMPLETED)
                if pump.done():
                    pump.result()  # the log could not be told: no reason to go on
                code = await ended
                _signal(process, signal.SIGKILL)  # what it left behind in its group would hold the pipe open
                await pump
            finally:
                pump.cancel()
                await self._end(process)
                await asyncio.wait({pump})  # it lets go of its pipe before that is closed
            return code

    async def _end(self, process: Process) -> None:
        """Nothing of the group is alive when this returns."""
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), self._grace)
            except TimeoutError:
                _signal(process, signal.SIGKILL)
                await process.wait()
        _signal(process, signal.SIGKILL)


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already (macOS says it with EPERM)
        os.killpg(process.pid, number)


@contextmanager
def _pipes() -> Iterator[tuple[IO[bytes], IO[bytes], IO[bytes], IO[bytes]]]:
    """Two pipes, each as (end to read, end to write): the program's output, and a life line that ends when we do.

    Our own, because with asyncio's nobody learns that the program has ended while a grandchild holds one open.
    """
    with ExitStack() as open_ends:
        output, output_end, life, life_end = (
            open_ends.enter_context(os.fdopen(end, mode, 0))
            for pipe in (os.pipe(), os.pipe())
            for end, mode in zip(pipe, ("rb", "wb"), strict=True)
        )
        yield output, output_end, life, life_end


async def _pump(output: IO[bytes], log: _Log) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), output)
    try:
        async for lines in _lines(reader):
            await log.take(lines)
    finally:
        transport.close()


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[list[str]]:
    """The output as lines, as many at once as arrived at once; past OUTPUT_BYTES it is read, but no longer told."""
    rest, told = b"", 0
    while chunk := await output.read(8192):
        told += len(chunk)
        if told > OUTPUT_BYTES:
            continue
        *whole, rest = (rest + chunk).split(b"\n")
        yield [_readable(line) for line in whole]
        rest = rest[: 4 * LINE_CHARACTERS]
    last = [_readable(rest)] if rest else []
    if told > OUTPUT_BYTES:
        last.append(f"... {told - OUTPUT_BYTES:,} more bytes of output were left out")
    yield last


def _readable(line: bytes) -> str:
    text = line.decode(errors="replace").expandtabs(2)
    return "".join(letter for letter in text if letter.isprintable())[:LINE_CHARACTERS]


class _Log:
    """Lines in, few and small ``build_progress`` events out: one when a stage begins, one more if it goes on."""

    def __init__(self, report: Report, hidden: str) -> None:
        self._report = report
        self._hidden = hidden
        self._stage = ""
        self._waiting: list[str] = []
        self._last: list[str] = []

    async def take(self, lines: list[str]) -> None:
        """Lines of the program's output that arrived together."""
        began = False
        for line in lines:
            stage, text = self._read(line)
            if STAGES.index(stage) > (STAGES.index(self._stage) if self._stage else -1):
                await self.flush()
                self._stage, began = stage, True
            self._waiting.append(text)
        if began:
            await self.flush()

    async def end(self) -> None:
        """The program ended well: every stage has been spoken of."""
        await self.flush()
        for stage in STAGES[STAGES.index(self._stage) + 1 if self._stage else 0 :]:
            self._stage = stage
            await self._tell([])

    def reason(self) -> str:
        """Why the program failed, in its own words: what it marked as errors, else its last lines."""
        marked = [line.removeprefix("[error] ") for line in self._last if line.startswith("[error] ")]
        return "\n".join(marked or filter(None, self._last))[-300:]

    def _read(self, line: str) -> tuple[str, str]:
        """(stage, text); a line that names no stage belongs to the one that goes on."""
        stage, _, text = line.removeprefix("[").partition("] ")
        if stage not in STAGES or not line.startswith("["):
            stage, text = self._stage or STAGES[0], line
        text = text.replace(f"{self._hidden}/", "")
        self._last = [*self._last[-4:], text]
        return stage, text

    async def flush(self) -> None:
        """Tell what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            await self._tell(waiting)

    async def _tell(self, logs: list[str]) -> None:
        message, emoji = MESSAGES[self._stage]
        await self._report(
            "build_progress",
            {"stage": self._stage, "message": message, "emoji": emoji, "severity": "info", "logs": _fit(logs)},
        )


def _fit(logs: list[str]) -> list[str]:
    """The last of the lines, as many as an event may carry, and a word about those before."""
    kept: list[str] = []
    room = LOG_BYTES
    for line in reversed(logs):
        room -= len(orjson.dumps(line)) + 1
        if room < 0:
            break
        kept.insert(0, line)
    left_out = len(logs) - len(kept)
    return [f"... {left_out} more lines", *kept] if left_out else kept


def _swap(out: Path, dist: Path) -> None:
    """Put the new folder in the place of the old one. Only ever whole folders stand there."""
    old = out.with_name(f"{out.name}-old")
    if dist.exists():
        dist.rename(old)
    out.rename(dist)
    shutil.rmtree(old, ignore_errors=True)
