"""Append events to a run: foldstream emit 27 task_completed taskName="Create HTML" filesCreated=1

A value that reads as JSON (a number, true, null, a list, "text in quotes") is taken as that, anything else as text.
With - instead of a type, events are read from stdin, one JSON object a line: {"type": ..., "data": {...}, "key": ...}
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import anyio
import orjson

from eventstore.errors import FoldstreamError, Invalid
from eventstore.event import NewEvent
from foldstream.client import Client
from foldstream.commands.named import HELP, open_client, resolve, run_name
from foldstream.commands.talk import Exit, put

MOST_LINES = 500
CHUNK = 64 * 1024
FIELDS = frozenset({"type", "data", "key", "timestamp", "requestId"})


def arguments(parser: argparse.ArgumentParser) -> None:
    """The pairs make up the event's data."""
    parser.add_argument("run", metavar="RUN", type=run_name, help=HELP)
    parser.add_argument("type", metavar="TYPE", help="the event's type, such as task_started; - reads NDJSON on stdin")
    parser.add_argument("pairs", metavar="key=value", nargs="*", type=_pair, help="a field of the data")
    parser.add_argument("--data", metavar="JSON", type=_object, default={}, help="the data as one JSON object")
    parser.add_argument("--key", help="append it once, however often this command is run with the same key")
    parser.add_argument("--json", action="store_true", help='print {"run": ..., "ids": [...]} instead of the ids')


def run(args: argparse.Namespace) -> int:
    """Append, and print the ids."""
    anyio.run(_emit, args)
    return Exit.OK


async def _emit(args: argparse.Namespace) -> None:
    async with open_client(attempts=5) as client:
        name = await resolve(client, args.run)
        if args.type == "-":
            for first, events in _batches(_lines(0)):
                try:
                    await _append(client, name, events, args)
                except Invalid as error:
                    where = f"line {first}" if len(events) == 1 else f"lines {first} to {first + len(events) - 1}"
                    raise Invalid(
                        f"{where} of stdin: {_placed(error)}; none of them was recorded", fix=error.fix
                    ) from error
        else:
            event = NewEvent(args.type, {**args.data, **dict(args.pairs)}, key=args.key)
            await _append(client, name, [event], args)


async def _append(client: Client, name: str, events: list[NewEvent], args: argparse.Namespace) -> None:
    ids = await client.append(name, events)
    put(orjson.dumps({"run": name, "ids": ids}).decode() if args.json else "\n".join(map(str, ids)))


def _placed(error: FoldstreamError) -> str:
    return f"{error.detail} (at {error.pointer})" if error.pointer else error.detail


def _lines(descriptor: int) -> Iterator[list[bytes]]:
    """The lines of a file, as many at once as there are: none waits for the next one."""
    rest = b""
    while chunk := os.read(descriptor, CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    yield [rest]


def _batches(groups: Iterator[list[bytes]]) -> Iterator[tuple[int, list[NewEvent]]]:
    """The events of the lines, at most MOST_LINES together, with the number of the first line. Raises Invalid."""
    number = 0
    for lines in groups:
        for begin in range(0, len(lines), MOST_LINES):
            part = lines[begin : begin + MOST_LINES]
            events = [_event(line, number + index) for index, line in enumerate(part, 1) if line.strip()]
            if events:
                yield number + 1, events
            number += len(part)


def _event(line: bytes, number: int) -> NewEvent:
    fix = 'Write {"type": "...", "data": {...}} on each line. What came before this line may have been recorded.'
    try:
        posted = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"line {number} of stdin is not JSON: {error}", fix=fix) from error
    if not isinstance(posted, dict) or not isinstance(posted.get("type"), str):
        raise Invalid(f"line {number} of stdin is not an object with a type", fix=fix)
    if unknown := posted.keys() - FIELDS:
        raise Invalid(f"line {number} of stdin has a field {min(unknown)!r} that events do not have", fix=fix)
    try:
        at = datetime.fromisoformat(posted["timestamp"]) if posted.get("timestamp") else None
    except (TypeError, ValueError) as error:
        raise Invalid(f"line {number} of stdin has a timestamp that is no time: {error}", fix=fix) from error
    return NewEvent(posted["type"], posted.get("data") or {}, posted.get("key"), at, posted.get("requestId"))


def _pair(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value


def _object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text[:60]!r} is not a JSON object such as {{"taskName": "x"}}')
    return value
