"""Writes runs as text: a line of JSON an event, byte-exact; `foldstream import` reads it."""

from __future__ import annotations

import argparse
import asyncio
import errno
import filecmp
import gzip
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from eventstore import archive
from eventstore.archive import Archived
from eventstore.categories import BY_NAME
from eventstore.errors import CannotStart, Invalid, NotFound, Unavailable
from eventstore.stores import whole
from eventstore.stores.connections import Connection
from eventstore.stores.whole import Place
from foldstream.commands import database
from foldstream.commands.named import HELP, run_name
from foldstream.commands.talk import Exit, Parser, say

BUFFER = 1 << 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where to."""
    parser.add_argument("runs", metavar="RUN", nargs="*", type=run_name, help=HELP)
    parser.add_argument("--all", action="store_true", help="every run, in order of names")
    parser.add_argument("--category", choices=sorted(BY_NAME), help="every run of this kind")
    parser.add_argument("--out", type=Path, metavar="FILE", help="to write to (stdout); compressed if it ends in .gz")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON, on stderr")
    database.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write them; what was written is said on stderr."""
    if bool(args.runs) == (args.all or args.category is not None):
        Parser("foldstream export").error("name runs, or say --all or --category")
    settings = database.settings_of(args)
    with (
        database.database(settings) as url,
        output(args.out) as file,
        database.bar("exporting", lambda: database.count_events(url) if args.all else None) as told,
    ):
        streams, events, gone = asyncio.run(_export(url, args, file, told))
    if args.json:
        say(orjson.dumps({"streams": streams, "events": events, "gone": gone}).decode())
    else:
        left = f"; of {gone:,} more the events have left the log" if gone else ""
        say(f"exported {events:,} events of {streams:,} streams{left}")
    return Exit.OK


async def _export(
    url: str, args: argparse.Namespace, file: BinaryIO, told: Callable[[int], None]
) -> tuple[int, int, int]:
    streams = events = gone = 0
    async with whole.connected(url) as connection:
        async for page in _pages(connection, args.runs, args.category):
            here = [place for place in page if place.count]
            gone += len(page) - len(here)
            streams += len(here)
            wanted = events + sum(place.count for place in here)
            async for place, found in whole.events(connection, here):
                # What was appended since is left out: each stream is as of the moment in which it was looked up.
                events += write(file, [one for one in found if one.event.version <= place.version])
                told(events)
            if events != wanted:
                raise Unavailable(
                    f"{wanted - events:,} events between {here[0].stream} and {here[-1].stream} are not there: "
                    "`foldstream gc` has dropped them just now, or `foldstream verify` says what is wrong"
                )
    return streams, events, gone


async def _pages(connection: Connection, runs: Sequence[str], category: str | None) -> AsyncIterator[list[Place]]:
    if not runs:
        async for page in whole.places(connection, category):
            yield page
        return
    for name in await database.streams(connection, runs):
        place = await whole.place_of(connection, name)
        if place is None:
            raise NotFound(f"there is no {name} in the log", fix="`foldstream ls` names the newest runs.")
        if not place.count:
            raise NotFound(
                f"the events of {name} have left the log: retention has dropped them",
                fix="Look for the export that was made before, if one was; `foldstream status` still answers.",
            )
        yield [place]


def write(file: BinaryIO, found: Sequence[Archived]) -> int:
    """Write these; how many they are."""
    file.write(b"".join(map(archive.line, found)))
    return len(found)


@contextmanager
def output(path: Path | None, *, once: bool = False) -> Iterator[BinaryIO]:
    """A file that has its name only when it is complete and on the disk; stdout without one. Raises CannotStart.

    once: a file that is there already stays. Raises Invalid if it is another one.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb", buffering=BUFFER) as raw:
            if path.suffix == ".gz":
                # No name and no time in it: the same events give the same file.
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        if once and path.exists() and not filecmp.cmp(part, path, shallow=False):
            raise Invalid(f"{path} is there already and holds something else: move it away")
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename not in (str(part), str(path.parent), None):
            raise
        raise CannotStart(f"cannot write {path}: {error.strerror}", fix="Choose another --out.") from error
    finally:
        part.unlink(missing_ok=True)


def flush(folder: Path) -> None:
    """Bring the names in it onto the disk: a file that is there may lose its name in a crash of the machine."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL):  # some file systems know of no such thing
            raise
    finally:
        os.close(opened)
