"""Prints how programs reach the database: for psql, psycopg and whatever else speaks SQL (docs/sql.md).

DATABASE_URL if it is set, else the socket of the `foldstream dev` that runs on the data folder; it is another one after
each start.
"""

from __future__ import annotations

import argparse

import orjson

from eventstore.errors import CannotStart
from foldstream.commands import database
from foldstream.commands.talk import Exit, put
from foldstream.services import run_postgres


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where the database is."""
    parser.add_argument("--json", action="store_true", help='print a JSON object: {"url": ...}')
    database.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print it. Raises CannotStart when nothing runs."""
    settings = database.settings_of(args)
    url = settings.database_url or run_postgres.running_url(settings.data_dir)
    if not url:
        raise CannotStart(
            f"no foldstream runs on {settings.data_dir}", fix="Start `foldstream dev`, or set DATABASE_URL."
        )
    put(orjson.dumps({"url": url}).decode() if args.json else url)
    return Exit.OK
