"""Reads what `foldstream export` wrote into the log: all of the file, or nothing of it.

Every line is checked: versions without a hole, and the chain of hashes. Runs that the log has already, with every event
of the file, are passed over; a run that differs refuses the file. Needs the user who owns the tables."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from eventstore.archive import parsed
from eventstore.errors import CannotStart, Invalid
from eventstore.stores.bulk import load
from foldstream.commands import database
from foldstream.commands.talk import Exit, put

MOST = 1 << 24
"""Bytes of a line: more than an event of the largest MAX_EVENT_BYTES needs."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to read."""
    parser.add_argument("file", metavar="FILE", help="to read; - is stdin; decompressed if it ends in .gz")
    parser.add_argument("--seal", action="store_true", help="close the imported runs: nothing is appended to them")
    parser.add_argument("--json", action="store_true", help="print what was imported as JSON")
    database.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Import it and say how much it was."""
    settings = database.settings_of(args)
    with (
        input_(args.file) as (lines, size, place),
        database.database(settings) as url,
        database.bar("importing", lambda: size) as told,
    ):
        loaded = asyncio.run(load(url, parsed(lines), seal=args.seal, told=lambda _: told(place())))
    if args.json:
        put(orjson.dumps(loaded._asdict()).decode())
    else:
        skipped = f"; {loaded.skipped:,} streams were there already, with the same events" if loaded.skipped else ""
        put(f"imported {loaded.events:,} events of {loaded.streams:,} streams{skipped}")
    return Exit.OK


@contextmanager
def input_(name: str) -> Iterator[tuple[Iterator[bytes], int | None, Callable[[], int]]]:
    """The lines of a file, its size, and how far it is read, in bytes. Raises CannotStart."""
    if name == "-":
        yield _lines(sys.stdin.buffer), None, lambda: 0
        return
    path = Path(name)
    try:
        raw = path.open("rb", buffering=1 << 20)
        size = path.stat().st_size
    except OSError as error:
        raise CannotStart(f"cannot read {name}: {error.strerror}", fix="Check the name; - is stdin.") from error
    with raw:
        yield (_unpacked(raw) if path.suffix == ".gz" else _lines(raw)), size, raw.tell


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MOST + 1):
        number += 1
        if len(line) > MOST:
            raise Invalid(
                f"line {number} is longer than {MOST:,} bytes, and no event is",
                fix="Nothing was imported. Take the file as it was exported.",
            )
        yield line


def _unpacked(raw: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=raw) as packed:
            yield from _lines(cast("BinaryIO", packed))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Invalid(
            f"the file is cut off or not compressed by gzip: {error}", fix="Take another copy of it."
        ) from error
