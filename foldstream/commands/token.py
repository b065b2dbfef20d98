"""Sign a token with JWT_SECRET: for one run, or with --all for all. Needs the server's secret, not the server."""

from __future__ import annotations

import argparse
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import orjson

from eventstore.errors import CannotStart
from foldstream.commands.named import LAST, run_name
from foldstream.commands.talk import Exit, put
from foldstream.settings import read
from streaming.guard import READ, WRITE
from streaming.token import Signer

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """For whom, for what, for how long."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("run", metavar="RUN", nargs="?", type=_one_run, help="id (27) or stream's name (build-27)")
    subject.add_argument("--all", action="store_true", help="for all runs")
    parser.add_argument("--read-only", action="store_true", help="for watching only, not for appending")
    parser.add_argument(
        "--ttl", type=_duration, default=timedelta(hours=1), help="how long it is good: 90s, 15m, 1h, 7d"
    )
    parser.add_argument("--json", action="store_true", help="print the token with what it is good for")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    settings = read(os.environ, auth=True)
    subject = "*" if args.all else args.run
    scopes = (READ,) if args.read_only else (READ, WRITE)
    now = datetime.now(UTC)
    signer = Signer(settings.jwt_secrets or _kept_secret(settings.data_dir))
    token = signer.mint(subject, scopes, now, uuid4().hex, args.ttl)
    told = {"token": token, "run": subject, "scope": " ".join(scopes), "expires": now + args.ttl}
    put(orjson.dumps(told, option=orjson.OPT_OMIT_MICROSECONDS | orjson.OPT_UTC_Z).decode() if args.json else token)
    return Exit.OK


def _kept_secret(data_dir: Path) -> tuple[str, ...]:
    """The secret that a server without JWT_SECRET made for itself and keeps in its folder."""
    try:
        return ((data_dir / "secret").read_text().strip(),)
    except OSError as error:
        raise CannotStart(
            "there is no JWT_SECRET to sign with",
            fix="Set it to the server's own, or run this where the server runs, in the same folder.",
        ) from error


def _one_run(text: str) -> str:
    if text == LAST:
        raise argparse.ArgumentTypeError("a token is for a run that is named: give its id")
    return run_name(text)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,6})([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 1h or 7d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
