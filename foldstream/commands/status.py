"""The state of a run at this moment: its progress and its steps."""

from __future__ import annotations

import argparse
from typing import Any

import anyio
import orjson

from foldstream.commands.named import HELP, open_client, resolve, run_name
from foldstream.commands.talk import Exit, put
from foldstream.commands.watching.words import clean, icons, steps


def arguments(parser: argparse.ArgumentParser) -> None:
    """One run."""
    parser.add_argument("run", metavar="RUN", type=run_name, help=HELP)
    parser.add_argument("--json", action="store_true", help="print the state as the server gives it")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    state = anyio.run(_state, args.run)
    put(orjson.dumps(state).decode() if args.json else summary(state))
    return Exit.OK


async def _state(name: str) -> dict[str, Any]:
    async with open_client() as client:
        return await client.state(await resolve(client, name))


def summary(state: dict[str, Any]) -> str:
    """A few lines for a person."""
    told = [name for name in ("message", "error", "previewUrl") if state.get(name)]
    return "\n".join(
        [
            f"{state['id']}  {state['status']}  {state['progress']} %  {clean(str(state['name']))}",
            *(f"  {line}" for line in steps(state["steps"], icons())),
            *(f"  {name}: {_indented(str(state[name]))}" for name in told),
        ]
    )


def _indented(text: str) -> str:
    lines = [clean(line) for line in text.splitlines()]
    return lines[0] if len(lines) == 1 else "".join(f"\n    {line}" for line in lines)
