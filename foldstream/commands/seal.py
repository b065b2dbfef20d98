"""Closes runs for good: they are read as ever, and nothing is appended to them any more."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import orjson

from eventstore.errors import NotFound
from eventstore.stores import whole
from eventstore.stores.postgres import PostgresStore
from foldstream.commands import database
from foldstream.commands.named import HELP, run_name
from foldstream.commands.talk import Exit, put


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_name, help=HELP)
    parser.add_argument("--json", action="store_true", help="print a JSON object: name -> last version")
    database.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Close them and say at which version."""
    settings = database.settings_of(args)
    with database.database(settings) as url:
        versions = asyncio.run(_seal(url, args.runs))
    words = "\n".join(f"{name} is sealed at version {version}" for name, version in versions.items())
    put(orjson.dumps(versions).decode() if args.json else words)
    return Exit.OK


async def _seal(url: str, runs: Sequence[str]) -> dict[str, int]:
    async with whole.connected(url) as connection:
        names = await database.streams(connection, runs)
    async with PostgresStore(url, smallest=1, largest=1) as store:
        known = await store.heads(names)
        for name in names:
            if name not in known:
                raise NotFound(f"there is no {name} in the log", fix="`foldstream ls` names the newest runs.")
        return {str(name): await store.seal(name) for name in names}
