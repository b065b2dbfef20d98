"""Keeps the log small: new partitions in time, and retention, if it is switched on. For cron, once a day.

Streams without an append for EVENT_RETENTION_DAYS are sealed; partitions in which all streams are leave the log. Their
last states stay. Off by default. Needs the user who owns the tables. Exit code 1: not all is done yet, run it again.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson

from eventstore.archive import Archived
from eventstore.errors import CannotStart
from eventstore.retention import Policy, Report, gc
from eventstore.stores import whole
from foldstream.commands import database
from foldstream.commands.export import flush, output, write
from foldstream.commands.talk import Exit, put, say
from foldstream.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may go."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--older-than", type=_days, metavar="DAYS", help="retention in days (EVENT_RETENTION_DAYS)")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write what is dropped to DIR first, as NDJSON, .gz")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    database.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, and say for each partition what was done or why it stays."""
    settings = database.settings_of(args)
    policy = policy_of(settings)
    if args.older_than is not None:
        policy = replace(policy, days=args.older_than)
    folder: Path | None = args.export
    if folder is not None:
        try:
            if not folder.is_dir() and not args.dry_run:
                folder.mkdir(parents=True)
                flush(folder.parent)
        except OSError as error:
            raise CannotStart(f"cannot make {folder}: {error.strerror}", fix="Choose another --export.") from error
    with database.database(settings) as url:
        report = asyncio.run(_gc(url, policy, folder, dry_run=args.dry_run))
    put(orjson.dumps(as_json(report)).decode() if args.json else summary(report, policy, dry_run=args.dry_run))
    if report.failed:
        say("Not everything is done. Run foldstream gc again; it goes on where it stopped.")
    return Exit.FAILED if report.failed else Exit.OK


async def _gc(url: str, policy: Policy, folder: Path | None, *, dry_run: bool) -> Report:
    shelf = None
    if folder is not None:
        async with whole.connected(url) as connection:
            shelf = Folder(folder, await whole.epoch(connection))
    return await gc(url, policy, dry_run=dry_run, shelf=shelf)


def policy_of(settings: Settings) -> Policy:
    """What the environment says. Days 0: retention is off."""
    days = settings.event_retention_days or None
    return Policy(days, settings.partition_days, settings.partition_events)


class Folder:
    """A `Shelf`: a file for each partition. The log's epoch is in its name: other logs have partitions 1, 2, 3, too."""

    def __init__(self, folder: Path, epoch: str) -> None:
        self._folder, self._log = folder, epoch[:8]

    def has(self, part: int) -> bool:
        """Its file is there, and so it is complete."""
        return self._path(part).exists()

    async def put(self, part: int, events: AsyncIterator[Archived]) -> None:
        """Write its file. Raises Invalid if there is one that holds something else."""
        with output(self._path(part), once=True) as file:
            async for archived in events:
                write(file, [archived])

    def _path(self, part: int) -> Path:
        return self._folder / f"events_{part}.{self._log}.ndjson.gz"


def as_json(report: Report) -> dict[str, object]:
    """The report, for scripts."""
    parts = [part._asdict() for part in report.partitions]
    return {"rotated": report.rotated, "sealed": report.sealed, "trouble": report.trouble, "partitions": parts}


def summary(report: Report, policy: Policy, *, dry_run: bool) -> str:
    """A line for each thing that was done or was not."""
    told = []
    if report.rotated is not None:
        would = "would be" if dry_run else "are"
        told.append(
            f"new streams {would} born into {f'events_{report.rotated}' if report.rotated else 'a new partition'}"
        )
    if report.trouble:
        told.append(report.trouble)
    if policy.days is None:
        return "\n".join([*told, "retention is off: nothing is sealed, nothing is dropped (EVENT_RETENTION_DAYS)"])
    would = "would be " if dry_run else ""
    told.append(f"{would}sealed: {report.sealed:,} streams without an append for {policy.days:g} days")
    for part in report.partitions:
        why = f": {part.why}" if part.why else ""
        told.append(f"events_{part.part} {part.did} ({part.streams:,} streams, {part.events:,} events){why}")
    return "\n".join(told)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return days
