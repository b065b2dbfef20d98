"""Follow a run until its end; the exit code is its result: 0 completed, 1 failed, 3 cancelled.

On a terminal a bar and the steps, elsewhere a line for each thing that happens; --progress json prints the events.
A run that has not begun is waited for.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import aclosing

import anyio
from rich.console import Console

from eventstore.event import StreamId
from foldstream.commands.named import HELP, LAST, open_client, resolve, run_name
from foldstream.commands.talk import Exit, is_terminal, say
from foldstream.commands.watching.shows import Trouble, Watched, show_for
from foldstream.settings import PROGRESS, read_client

RESULTS = {"completed": Exit.OK, "failed": Exit.FAILED, "cancelled": Exit.CANCELLED}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What, how, and how long."""
    parser.add_argument("run", metavar="RUN", nargs="?", type=run_name, default=LAST, help=f"{HELP} (@last)")
    parser.add_argument("--progress", choices=PROGRESS, help="how to show it (FOLDSTREAM_PROGRESS, else auto)")
    parser.add_argument("--after", metavar="N", type=int, default=0, help="say nothing of the events up to id N")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help="give up after so long, with exit code 124")
    parser.add_argument("--json", action="store_true", help="the same as --progress json")


def run(args: argparse.Namespace) -> int:
    """Show it and give its result."""
    settings = read_client(os.environ)
    progress = "json" if args.json else args.progress or settings.progress
    if progress == "auto":
        console = Console()
        progress = "tty" if console.is_terminal and not console.is_dumb_terminal else "plain"
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # foreign text in an encoding that lacks it
    return anyio.run(_watch, args, progress, settings.color and is_terminal(1))


async def _watch(args: argparse.Namespace, progress: str, color: bool) -> int:
    trouble = Trouble()
    async with open_client(on_wait=trouble) as client:
        name = await resolve(client, args.run)
        watched = Watched(StreamId.parse(name))
        show = show_for(progress, watched, trouble, color=color)
        if progress != "tty" and not await client.events(name, limit=1):
            say(f"Nothing has been recorded for {name} yet. This starts by itself.")
        with show, anyio.move_on_after(args.timeout):
            async with anyio.create_task_group() as tasks, aclosing(client.follow(name)) as events:
                tasks.start_soon(show.keep_up)
                async for event in events:
                    trouble.end()
                    watched.take(event)
                    if event["id"] == 0 or event["id"] > args.after:
                        show.event(event)
                tasks.cancel_scope.cancel()
            return RESULTS.get(watched.status, Exit.FAILED)
    say(f"foldstream watch: {name} had not ended after {args.timeout:g} s")
    say("It may still be running: watch it again, with a longer --timeout.")
    return Exit.TIMED_OUT
