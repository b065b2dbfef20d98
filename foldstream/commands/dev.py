"""foldstream dev: everything in one command: embedded servers, web server and worker. Loopback only, no tokens."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path

import orjson

from eventstore.errors import CannotStart
from foldstream.logs import set_up_logs
from foldstream.serve import Plan, listen
from foldstream.serve import run as run_plan
from foldstream.settings import Settings, read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags win over the environment."""
    parser.add_argument("--host", help="address to listen on (127.0.0.1; another one needs --insecure)")
    parser.add_argument("--port", type=int, help="port to listen on (PORT, else 8000; 0: a free one)")
    parser.add_argument("--data-dir", type=Path, help="where everything is kept (.foldstream)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--insecure", action="store_true", help="serve without tokens on an address others can reach")
    parser.add_argument("--json", action="store_true", help="print one JSON line when ready")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    set_up_logs()
    settings = with_flags(read(os.environ, auth=False), args)
    refuse_open_door(settings, insecure=args.insecure)
    listener = listen(settings.host, settings.port)
    if settings.port == 0 or args.port is not None:
        settings = replace(settings, port=listener.getsockname()[1])
        if "PUBLIC_URL" not in os.environ:
            settings = replace(settings, public_url=f"http://127.0.0.1:{settings.port}")

    def ready(settings: Settings) -> None:
        say_ready(settings, banner(settings), as_json=args.json)
        if args.open:
            webbrowser.open(f"{settings.public_url}/ui/")

    return run_plan(Plan(settings, listener, worker=True, migrate=True, ready=ready))


def refuse_half(settings: Settings) -> None:
    """Servers that share a database must share a bus, too. Raises CannotStart."""
    if bool(settings.database_url) != bool(settings.redis_url):
        given, missing = ("DATABASE_URL", "REDIS_URL") if settings.database_url else ("REDIS_URL", "DATABASE_URL")
        raise CannotStart(
            f"{given} is set and {missing} is not: this process would be alone with an embedded one",
            fix=f"Set {missing}, too; or neither, to run on this machine alone.",
        )


def say_ready(settings: Settings, words: str, *, as_json: bool) -> None:
    """Where the first request would be answered now: for people on stderr, for scripts as one JSON line on stdout."""
    if as_json:
        print(orjson.dumps({"url": settings.public_url, "dataDir": str(settings.data_dir)}).decode(), flush=True)  # noqa: T201
    else:
        print(words, file=sys.stderr, flush=True)  # noqa: T201


def with_flags(settings: Settings, args: argparse.Namespace) -> Settings:
    """The settings with what the command line says."""
    flags = {name: getattr(args, name, None) for name in ("host", "port", "data_dir")}
    settings = replace(settings, **{name: value for name, value in flags.items() if value is not None})
    return replace(settings, data_dir=settings.data_dir.absolute())


def refuse_open_door(settings: Settings, *, insecure: bool) -> None:
    """Without tokens, only this machine may connect, unless somebody insists. Raises CannotStart."""
    if not settings.is_loopback and not settings.auth and not insecure:
        raise CannotStart(
            f"{settings.host} can be reached by others, and no tokens are asked for",
            fix="Set AUTH=on and JWT_SECRET, or say --insecure if you mean it.",
        )


def banner(settings: Settings) -> str:
    """What a person sees when the first request would be answered."""
    url = settings.public_url
    store = "DATABASE_URL" if settings.database_url else f"{settings.data_dir.name} (embedded Postgres)"
    bus = "REDIS_URL" if settings.redis_url else "embedded Valkey"
    return (
        f"foldstream dev   auth {'on' if settings.auth else 'off'} · store {store} · bus {bus}\n"
        f"  page     {url}/ui/\n"
        f'  build    curl -s {url}/build-preview -d \'{{"prompt":"a todo app with dark mode"}}\'\n'
        f"  stop     Ctrl-C (the data is kept)"
    )
