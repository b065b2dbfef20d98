"""Checks runs from their first event on: versions, hashes, order, and the states that were folded from them.

Exit code 0: all is as it was written. 1: it names, for each run, the first thing that is not."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable

import orjson

from eventstore.stores import whole
from eventstore.verify import Report, verify
from foldstream.commands import database
from foldstream.commands.named import HELP, run_name
from foldstream.commands.talk import Exit, Parser, put, say

MOST_SHOWN = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs."""
    parser.add_argument("runs", metavar="RUN", nargs="*", type=run_name, help=HELP)
    parser.add_argument("--all", action="store_true", help="every run, and the tables")
    parser.add_argument("--repair", action="store_true", help="make wrong and missing states anew; touches no event")
    parser.add_argument("--json", action="store_true", help="print the numbers and every difference as JSON")
    database.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check them."""
    if bool(args.runs) == args.all:
        Parser("foldstream verify").error("name runs, or say --all")
    settings = database.settings_of(args)
    with (
        database.database(settings) as url,
        database.bar("verifying", lambda: database.count_events(url) if args.all else None) as told,
    ):
        report = asyncio.run(_verify(url, args, told))
    put(orjson.dumps(as_json(report)).decode() if args.json else summary(report))
    wrong = len(report.differences) > report.mended
    if wrong and not args.json:
        say("An event that differs: compare with an export (docs/operations.md). A state: foldstream verify --repair.")
    return Exit.FAILED if wrong else Exit.OK


async def _verify(url: str, args: argparse.Namespace, told: Callable[[int], None]) -> Report:
    names = None
    if not args.all:
        async with whole.connected(url) as connection:
            names = await database.streams(connection, args.runs)
    return await verify(url, names, repair=args.repair, told=told)


def as_json(report: Report) -> dict[str, object]:
    """The report, for scripts."""
    names = ("streams", "events", "states", "missing", "unfolded", "gone", "repaired", "moved")
    numbers = {name: getattr(report, name) for name in names}
    return {**numbers, "differences": [difference._asdict() for difference in report.differences]}


def summary(report: Report) -> str:
    """The differences, then a line of numbers."""
    shown = [str(difference) for difference in report.differences[:MOST_SHOWN]]
    if len(report.differences) > MOST_SHOWN:
        shown.append(f"... and {len(report.differences) - MOST_SHOWN:,} more")
    found = len(report.differences)
    verdict = f"{found:,} differ" if found else "all is as it was written"
    repaired = f", {report.repaired:,} states made anew" if report.repaired else ""
    repaired += f", {report.moved:,} left alone, because they were written meanwhile" if report.moved else ""
    numbers = f"{report.streams:,} streams, {report.events:,} events, {report.states:,} stored states"
    more = "".join(
        f"; {count:,} {words}"
        for count, words in (
            (report.missing - report.made, "without a snapshot yet; --repair makes them"),
            (report.unfolded, "without a state to compare"),
            (report.gone, "whose events have left the log"),
        )
        if count
    )
    return "\n".join([*shown, f"{verdict}{repaired}: {numbers}{more}"])
