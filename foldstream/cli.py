"""foldstream: the command line. A table of commands; each one is loaded only when it is called.

`foldstream --version` must answer at once and `foldstream run` must start its job at once, while a server is a second
of imports. So this file is the one that imports late: by name, from the table, through importlib. The only other late
imports are those of `run`, for the same reason: its job comes first.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from foldstream.commands.talk import Exit, Parser, say

COMMANDS: Mapping[str, tuple[str, str]] = {
    "dev": ("foldstream.commands.dev", "everything on this machine: databases, server, worker; no tokens"),
    "serve": ("foldstream.commands.serve", "the web server, for production"),
    "worker": ("foldstream.commands.worker", "the worker that plans, builds and deploys"),
    "migrate": ("foldstream.commands.migrate", "bring the database up to date"),
    "run": ("foldstream.commands.run", "run a command as a live page: run -- make test"),
    "emit": ("foldstream.commands.emit", "append events to a run"),
    "watch": ("foldstream.commands.watch", "follow a run; ends with the run's result"),
    "status": ("foldstream.commands.status", "the state of a run now"),
    "ls": ("foldstream.commands.ls", "the newest runs"),
    "seal": ("foldstream.commands.seal", "close runs for good"),
    "export": ("foldstream.commands.export", "write runs as text, byte-exact"),
    "import": ("foldstream.commands.import_", "read what export wrote, checked"),
    "verify": ("foldstream.commands.verify", "is the log, and what is folded from it, as it was written?"),
    "dsn": ("foldstream.commands.dsn", "how programs that speak SQL reach the database"),
    "gc": ("foldstream.commands.gc", "new partitions in time, and retention; for cron"),
    "token": ("foldstream.commands.token", "sign a token for a run, or for all of them"),
}
"""Name -> (module, what it is for)."""

USAGE = "foldstream COMMAND ...\n\ncommands:\n" + "\n".join(
    f"  {name:<9} {purpose}" for name, (_, purpose) in COMMANDS.items()
)

ABOUT = """\
RUN is an id (27), a stream's name (build-27) or @last, the newest.
Every command has --json and --help. FOLDSTREAM_URL and FOLDSTREAM_TOKEN say which server.
Exit codes: 0 ok, 1 failed, 2 usage, 3 cancelled, 4 no access, 124 timed out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(words)
    except SystemExit as leaving:  # --help, a mistake in the usage, or a signal that a server took as its end
        return leaving.code if isinstance(leaving.code, int) else Exit.OK if leaving.code is None else Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, BrokenPipeError):  # `foldstream watch | head -1`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain once more when it flushes at exit
            return Exit.FAILED
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            say(f"foldstream {words[0]}: what was to be written has no room: {cause.strerror}")
            say("Free some space there, or write elsewhere.")
            return Exit.FAILED
        found = _foreseen(cause)
        if found is None:
            raise
        say(f"foldstream {words[0]}: {found.detail}{f' (at {found.pointer})' if found.pointer else ''}")
        say(found.fix)
        return Exit.NO_ACCESS if found.status in (401, 403) else Exit.FAILED


def _command(words: list[str]) -> int:
    if not words or words[0] not in COMMANDS:
        _top(words)
        return Exit.USAGE
    name, rest = words[0], words[1:]
    module = importlib.import_module(COMMANDS[name][0])
    parser = Parser(f"foldstream {name}", description=_first_paragraph(module.__doc__ or ""))
    module.arguments(parser)
    code: int = module.run(parser.parse_args(rest))
    return code


def _top(words: list[str]) -> None:
    parser = Parser("foldstream", epilog=ABOUT)
    parser.usage = USAGE
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    parser.error(f"there is no command {args.command!r}" if args.command else "which command?")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        version = importlib.import_module("importlib.metadata").version("foldstream")
        sys.stdout.write(f'{{"version": "{version}"}}\n' if "--json" in sys.argv else f"foldstream {version}\n")
        parser.exit()


def _cause(error: Exception) -> Exception:
    """The error itself, out of the groups that task groups wrap errors in."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _foreseen(error: Exception) -> Any:
    """The error, if it has a message for people; None: it is a defect."""
    # By name: whoever raised one of ours has loaded the module; whoever has not shall not pay for it.
    errors = sys.modules.get("eventstore.errors")
    return error if errors is not None and isinstance(error, errors.FoldstreamError) else None


def _first_paragraph(text: str) -> str:
    return text.partition("\n\n")[0]
