"""talk: how commands speak. stdout is data, stderr is talk; an error is two lines: what failed, what to do next.

Imports nothing that takes time to load: `foldstream run` starts its job before anything else.
"""

from __future__ import annotations

import argparse
import sys
from enum import IntEnum
from typing import NoReturn


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    NO_ACCESS = 4
    TIMED_OUT = 124
    CANNOT_EXECUTE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130


def put(text: str) -> None:
    """A line of data, at once: somebody may be reading as it comes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for a person."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def is_terminal(number: int) -> bool:
    """Whether the standard stream of this number (1, 2) is open and a terminal."""
    stream = (sys.stdin, sys.stdout, sys.stderr)[number]
    return stream is not None and not stream.closed and stream.isatty()


class Parser(argparse.ArgumentParser):
    """Complains in two lines; takes no abbreviations, as a script with one would break when an option is added."""

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Usage: exit code 2."""
        say(f"{self.prog}: {message}")
        say(f"See `{self.prog} --help`.")
        raise SystemExit(Exit.USAGE)
