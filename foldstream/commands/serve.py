"""foldstream serve: the web server for production: tokens on, Postgres and Redis by URL, no worker unless told."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from eventstore.errors import CannotStart
from foldstream.commands import dev
from foldstream.logs import set_up_logs
from foldstream.serve import Plan, listen
from foldstream.serve import run as run_plan
from foldstream.settings import Settings, read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags win over the environment."""
    dev.arguments(parser)
    parser.add_argument("--worker", action="store_true", help="run the pipeline's worker in this process too")
    parser.add_argument("--migrate", action="store_true", help="bring the database up to date first")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    set_up_logs()
    settings = dev.with_flags(read(os.environ, auth=not args.insecure), args)
    dev.refuse_open_door(settings, insecure=args.insecure)
    dev.refuse_half(settings)
    if settings.auth and not settings.jwt_secrets:
        raise CannotStart(
            "tokens are on, and there is no JWT_SECRET to sign them with",
            fix='Set JWT_SECRET (python3 -c "import secrets; print(secrets.token_urlsafe(48))"), or say --insecure.',
        )
    listener = listen(settings.host, settings.port)
    settings = replace(settings, port=listener.getsockname()[1])
    if "PUBLIC_URL" not in os.environ:
        settings = replace(settings, public_url=f"http://127.0.0.1:{settings.port}")

    def ready(settings: Settings) -> None:
        words = f"foldstream serve   {settings.public_url}   auth {'on' if settings.auth else 'OFF'}"
        dev.say_ready(settings, words, as_json=args.json)

    return run_plan(Plan(settings, listener, worker=args.worker, migrate=args.migrate, ready=ready))
