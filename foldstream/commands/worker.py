"""foldstream worker: does the pipeline's jobs. As many processes as you like; any of them may die at any moment."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from foldstream.commands.dev import refuse_half, with_flags
from foldstream.logs import set_up_logs
from foldstream.serve import Plan
from foldstream.serve import run as run_plan
from foldstream.settings import Settings, read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags win over the environment."""
    parser.add_argument("--data-dir", type=Path, help="where workspaces and previews are kept (.foldstream)")
    parser.add_argument("--json", action="store_true", help="print one JSON line when ready")


def run(args: argparse.Namespace) -> int:
    """Work until SIGTERM."""
    set_up_logs()

    def ready(settings: Settings) -> None:
        words = '{"ready": true}' if args.json else "foldstream worker   ready"
        print(words, file=sys.stdout if args.json else sys.stderr, flush=True)

    settings = with_flags(read(os.environ, auth=False), args)
    refuse_half(settings)
    return run_plan(Plan(settings, None, worker=True, migrate=False, ready=ready))
