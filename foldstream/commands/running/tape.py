"""tape: what a command writes, as events. Bytes go in as they come; events come out at a bearable pace.

Pure: the time is an argument. Theory: **a page shows the newest lines and says how many it left out.** Whatever a
command writes, at most four events a second of at most 8 KiB of text come out of it. What comes faster is dropped from
the old end, and each event says in ``dropped`` how many lines are missing before its own. Taking in bytes is cheap
(they are cut into lines only when an event is taken), so that a flood costs the command next to nothing.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from typing import Any

PACE = 0.25
"""Seconds between two events."""
LONG_RUN, LONG_RUN_PACE = 2000, 2.0
"""After so many events the pace is this: hours of flood shall not fill a database."""
EVENT_BYTES = 8 * 1024
KEPT_BYTES = 32 * 1024
"""Undecoded bytes that are kept of a stream."""
LINE_CHARS = 2000
TAIL_LINES, TAIL_CHARS = 20, 300
MESSAGE_CHARS = 200

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")
"""ANSI sequences and control characters."""

PERCENT = re.compile(r"^\s*\[?\s*(\d{1,3})%|\[\s*(\d{1,3})%\]\s*$|(\d{1,3})%\s*\|")
"""How progress is written: `[ 45%] Building` (cmake), `... [ 45%]` (pytest), ` 45%|####` (tqdm). Not `coverage 45%`."""
COUNT = re.compile(r"^\s*\[\s*(\d{1,9})/\s*(\d{1,9})\]")
"""`[12/100]` (ninja, docker)."""


def plain(line: str) -> str:
    """The line without colours and control characters."""
    return ESCAPES.sub("", line)


def progress_of(line: str) -> int | None:
    """The percentage that a line of output tells, if it is of a form that is surely meant so."""
    found = PERCENT.search(line)
    if found:
        percent = int(next(group for group in found.groups() if group))
        return percent if percent <= 100 else None
    found = COUNT.match(line)
    if found and 0 < int(found[2]) >= int(found[1]):
        return 100 * int(found[1]) // int(found[2])
    return None


class _Stream:
    """One of stdout and stderr: bytes -> lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.raw = bytearray()
        self.lines: deque[str] = deque()
        self.dropped = 0
        self.status = ""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""  # the unfinished one, its beginning at least
        self._beyond = 0  # how many of its characters were left out
        self._torn = False  # its beginning is lost: it is dropped when it ends

    def hear(self, chunk: bytes) -> None:
        self.raw += chunk
        excess = len(self.raw) - KEPT_BYTES
        if excess > KEPT_BYTES:
            self.dropped += self.raw.count(b"\n", 0, excess)
            del self.raw[:excess]
            self._torn = True
            self._line, self._beyond = "", 0

    def cut(self, *, end: bool = False) -> list[str]:
        """Cut what was heard into lines; give the new ones."""
        text = self._decoder.decode(bytes(self.raw), end)
        self.raw.clear()
        if self._torn:
            _, newline, text = text.partition("\n")
            self._torn = not newline
            self.dropped += bool(newline) or end
        # A "\r" at the end stays for the next time, when it is known whether "\n" follows.
        *ended, self._line = (self._line + text).replace("\r\n", "\n").replace("\0", "\ufffd").split("\n")
        lines = [self._finish(line) for line in ended]
        self._shorten(end)
        if end and self._line:
            lines.append(self._finish(self._line))
            self._line = ""
        for line in lines:
            self._keep(line)
        return lines

    def _finish(self, line: str) -> str:
        if "\r" in line[:-1]:
            self._beyond = 0  # what was too long has been written over
        line = _visible(line)
        beyond, self._beyond = self._beyond + max(0, len(line) - LINE_CHARS), 0
        self.status = line[:LINE_CHARS] or self.status
        return f"{line[:LINE_CHARS]} … [{beyond:,} more characters]" if beyond else line

    def _shorten(self, end: bool) -> None:
        """Keep of the unfinished line what a reader would be shown of it."""
        if "\r" in self._line[:-1]:
            ending = "\r" if self._line.endswith("\r") and not end else ""
            self._line, self._beyond = _visible(self._line) + ending, 0
            self.status = _visible(self._line) or self.status
        if len(self._line) > LINE_CHARS + 1:
            self._beyond += len(self._line) - LINE_CHARS
            self._line = self._line[:LINE_CHARS]

    def _keep(self, line: str) -> None:
        self.lines.append(line)
        self._bytes += len(line.encode()) + 1
        while self._bytes > EVENT_BYTES:
            self._bytes -= len(self.lines.popleft().encode()) + 1
            self.dropped += 1

    def take(self) -> list[str]:
        lines = list(self.lines)
        self.lines.clear()
        self._bytes = 0
        return lines


def _visible(line: str) -> str:
    """What a terminal shows of a line that was written over: `10%\\r20%\\r` -> `20%`."""
    return next((part for part in reversed(line.split("\r")) if part), "")


class Tape:
    """Both streams of one command."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._ready_at = 0.0
        self._taken = 0
        self._told = 0
        self._told_last = ""
        self._progress = 0
        self._mover = ""  # the stream that moved the progress

    def hear(self, stream: str, chunk: bytes) -> None:
        """Take in what the command wrote to ``stream`` ("stdout" or "stderr")."""
        if stream not in self._streams:
            self._streams[stream] = _Stream(stream)
        self._streams[stream].hear(chunk)

    def wait(self, now: float) -> float:
        """Seconds until the pace allows the next event (0: now)."""
        return max(0.0, self._ready_at - now)

    def take(self, now: float) -> dict[str, Any] | None:
        """The data of the next `run_output`; None: there is nothing to tell, or the pace does not allow it yet."""
        if now < self._ready_at:
            return None
        self._cut()
        # Both have a turn: the one that was told last is asked last.
        for stream in sorted(self._streams.values(), key=lambda stream: stream.name == self._told_last):
            data = self._data(stream)
            if data is not None:
                self._taken += 1
                self._ready_at = now + (PACE if self._taken < LONG_RUN else LONG_RUN_PACE)
                return data
        return None

    def rest(self) -> list[dict[str, Any]]:
        """What has not been taken, at the command's end, at any pace: an event a stream at most."""
        self._cut(end=True)
        return [data for stream in self._streams.values() if (data := self._data(stream)) is not None]

    def tail(self) -> str:
        """The last lines, without colours: why the command failed, most likely.

        Stderr's stand last, and each stream has room for half of them, as which of both was later cannot be known.
        """
        out, err = (list(self._streams[name].tail) if name in self._streams else [] for name in ("stdout", "stderr"))
        err = err[-max(TAIL_LINES // 2, TAIL_LINES - len(out)) :]
        return "\n".join([*out[len(err) - TAIL_LINES :], *err])

    def _cut(self, *, end: bool = False) -> None:
        for stream in self._streams.values():
            lines = stream.cut(end=end)
            stream.tail.extend(short for line in lines[-TAIL_LINES:] if (short := plain(line).rstrip()[:TAIL_CHARS]))
            for line in (*lines, stream.status):
                progress = progress_of(plain(line)) or 0
                if progress > self._progress:
                    self._progress, self._mover = progress, stream.name

    def _data(self, stream: _Stream) -> dict[str, Any] | None:
        moved = self._mover == stream.name and self._progress > self._told
        if not (stream.lines or stream.dropped or moved):
            return None
        data: dict[str, Any] = {"stream": stream.name, "logs": stream.take()}
        if stream.dropped:
            data["dropped"], stream.dropped = stream.dropped, 0
        if moved:
            data["progress"] = self._told = self._progress
        message = plain(stream.status).strip()[:MESSAGE_CHARS]
        if message:
            data["message"] = message
        self._told_last = stream.name
        return data
