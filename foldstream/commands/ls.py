"""The newest runs, newest first."""

from __future__ import annotations

import argparse
from typing import Any

import anyio
import orjson

from foldstream.commands.named import open_client
from foldstream.commands.talk import Exit, put
from foldstream.commands.watching.words import clean

NAME_CHARS = 60
FILTERS = ("category", "project", "status", "since", "until")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and how many."""
    parser.add_argument("--category", help="of what kind: build, task (build)")
    parser.add_argument("--project", help="only those of this project")
    parser.add_argument("--status", help="only those in this status, such as failed")
    parser.add_argument("--since", help="only those that began then or later, such as 2025-07-22T07:15:20Z")
    parser.add_argument("--until", help="only those that began before")
    parser.add_argument("--limit", type=_limit, default=20, help="how many at most, 1 to 200 (20)")
    parser.add_argument("--json", action="store_true", help="print a JSON list of their states")


def run(args: argparse.Namespace) -> int:
    """Print them, a line each."""
    runs = anyio.run(_runs, args.limit, {name: getattr(args, name) for name in FILTERS})
    if args.json:
        put(orjson.dumps(runs).decode())
    elif runs:
        put("\n".join(table(runs)))
    return Exit.OK


async def _runs(limit: int, asked: dict[str, str | None]) -> list[dict[str, Any]]:
    async with open_client() as client:
        return await client.runs(limit, **asked)


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Id, status, progress, start, name; in columns."""
    rows = [
        (
            run["id"],
            run["status"],
            f"{run['progress']:>3} %",
            (run["startedAt"] or "")[:19].replace("T", " "),
            clean(run["name"])[:NAME_CHARS],
        )
        for run in runs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[4]]) for row in rows]


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 200):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 200")
    return int(text)
