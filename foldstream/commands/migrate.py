"""foldstream migrate: brings the database up to date. Safe to run at any time, by several at once."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import orjson

from foldstream.commands.dev import with_flags
from foldstream.logs import set_up_logs
from foldstream.migrations import migrate
from foldstream.services import local_services
from foldstream.settings import read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags win over the environment."""
    parser.add_argument("--data-dir", type=Path, help="of the embedded database, where DATABASE_URL is empty")
    parser.add_argument("--json", action="store_true", help="print the applied steps as a JSON list")


def run(args: argparse.Namespace) -> int:
    """Apply what is missing and say what that was."""
    set_up_logs()
    settings = with_flags(read(os.environ, auth=False), args)
    url = settings.database_url
    with local_services(settings.data_dir, database_url=url or None, redis_url="unix:///unused") as services:
        applied = asyncio.run(migrate(services.database_url))
    words = "\n".join(f"applied {name}" for name in applied) or "nothing to do: the database is up to date"
    print(orjson.dumps(applied).decode() if args.json else words)  # noqa: T201
    return 0
