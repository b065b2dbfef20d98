"""Run a command as a live page: foldstream run -- make test

The command runs as it would without: same output, same exit code, same signals. Its output and its end become events
of a run; where the server is away, the command does not notice.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from foldstream.commands.running.child import Child, Ending, end_like
from foldstream.commands.talk import Exit, is_terminal, say

if TYPE_CHECKING:
    from foldstream.commands.running.tracker import Tracker

END_SECONDS = 5.0
"""How long, after the command's end, the server is waited for."""
COMMAND_CHARS, NAME_CHARS = 2000, 200
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command stands at the end, after `--`."""
    parser.add_argument("--name", help="what the page calls it (the command)")
    parser.add_argument("--id", help="the run's id (a new ULID)")
    parser.add_argument("--url-file", metavar="FILE", help="write the page's address into this file, before the start")
    parser.add_argument("--quiet", action="store_true", help="say nothing, not even to a terminal")
    parser.add_argument("--json", action="store_true", help="say it as JSON: on stderr, and only to a terminal")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")


def run(args: argparse.Namespace) -> int:
    """Run it and end as it ends: this does not return when the command was started."""
    argv = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not argv:
        say("foldstream run: which command?")
        say("Write it after two dashes: foldstream run -- make test")
        return Exit.USAGE
    teller = _Teller(args, argv)
    if args.id or args.url_file:
        teller.prepare()  # these can be wrong, and that is said before the start
    begun = time.monotonic()
    with Child(argv, os.environ) as child:
        try:
            child.start()
        except OSError as error:
            return teller.not_started(error)
        # The job runs. What tells of it is loaded meanwhile (see foldstream.cli); what it writes waits in its pipe.
        teller.begin()
        child.pass_through(teller.hear)
        status = child.wait()
    code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begun
    with suppress(KeyboardInterrupt):
        child.drain()
        teller.finish(Ending(code, seconds, child.stopped_by))
    return end_like(code)


class _Teller:
    """What the page gets to know, and what a terminal is told of the page. Its errors are not the command's."""

    def __init__(self, args: argparse.Namespace, argv: Sequence[str]) -> None:
        self._args, self._argv = args, argv
        self._speaks = is_terminal(2) and not args.quiet
        self._tracker: Tracker | None = None

    def prepare(self) -> None:
        """Make the tracker. Raises FoldstreamError."""
        rooms = importlib.import_module("foldstream.commands.running.tracker")
        command = _text(shlex.join(self._argv), COMMAND_CHARS)
        started = {"command": command, "name": _text(self._args.name or command, NAME_CHARS)}
        id_ = self._args.id or new_id(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big"))
        tracker: Tracker = rooms.tracker(id_, os.environ, started)
        if self._args.url_file:
            rooms.write_address(self._args.url_file, tracker.url)
        self._tracker = tracker

    def begin(self) -> None:
        """Begin to tell the server, and say where to watch."""
        if self._tracker is None:
            try:
                self.prepare()
            except Exception as error:  # noqa: BLE001  # the boundary: the job runs already, and is not disturbed
                self._give_up(error)
                return
        assert self._tracker is not None
        self._say(self._tracker.json if self._args.json else f"  watch: {self._tracker.url}")
        self._tracker.start()

    def hear(self, stream: str, chunk: bytes) -> None:
        """What the command has written."""
        try:
            if self._tracker is not None:
                self._tracker.hear(stream, chunk)
        except Exception as error:  # noqa: BLE001  # the boundary: what comes out of the command goes on coming out
            self._give_up(error)

    def finish(self, ending: Ending) -> None:
        """Tell the end, and say what could not be told."""
        tracker = self._tracker
        if tracker is None:
            return
        try:
            tracker.finish(ending, END_SECONDS)
        except Exception as error:  # noqa: BLE001  # the boundary: the command has ended, and how is what counts
            self._give_up(error)
            return
        if tracker.undelivered:
            self._say(f"foldstream: {tracker.undelivered:,} events were not delivered: {tracker.trouble.detail}")
            self._say(tracker.trouble.fix)

    def not_started(self, error: OSError) -> int:
        """There is no such command: say so, here and on the page, with a shell's exit code."""
        missing = isinstance(error, FileNotFoundError)
        code = Exit.NOT_FOUND if missing else Exit.CANNOT_EXECUTE
        what = f"{self._argv[0]}: {'command not found' if missing else error.strerror or error}"
        say(f"foldstream run: {what}")
        say("Check its name and PATH." if missing else "Make it executable (chmod +x); a script begins with #!.")
        self.begin()
        with suppress(KeyboardInterrupt):
            self.finish(Ending(code, 0.0, error=what))
        return code

    def _give_up(self, error: Exception) -> None:
        self._tracker = None
        self._say(f"foldstream: the run is not recorded: {getattr(error, 'detail', repr(error))}")
        self._say(getattr(error, "fix", "This is a defect of foldstream; the command is not affected."))

    def _say(self, text: str) -> None:
        if self._speaks:
            with suppress(OSError):  # the terminal has gone; the command decides what that means
                say(text)


def new_id(millis: int, chance: int) -> str:
    """A ULID: the time (48 bits) and 80 bits of chance. Our own, as the library takes longer to load than we may."""
    number = (millis & (1 << 48) - 1) << 80 | chance
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _text(text: str, most: int) -> str:
    """As much of it as fits; bytes of an argument that are not UTF-8 are replaced."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text if len(text) <= most else f"{text[: most - 1]}…"
