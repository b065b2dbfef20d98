"""named: which run a command is about, and the client to ask for it. RUN is an id, a stream's name or @last."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from eventstore.categories import BY_NAME
from eventstore.errors import FoldstreamError, Invalid, NotFound
from eventstore.event import StreamId
from foldstream.client import Client
from foldstream.settings import read_client

LAST = "@last"
HELP = "id (27), stream's name (build-27) or @last, the newest"


def run_name(text: str) -> str:
    """`27` -> "build-27"; "build-27" and "@last" stay. For argparse. Raises ArgumentTypeError."""
    if text == LAST:
        return text
    category, dash, _ = text.partition("-")
    try:
        return str(StreamId.parse(text) if dash and category in BY_NAME else StreamId("build", text))
    except Invalid as error:
        raise argparse.ArgumentTypeError(f"{error.detail}. {error.fix}") from error


async def resolve(client: Client, run: str) -> str:
    """The stream's name; asks the server which one is @last. Raises NotFound."""
    if run != LAST:
        return run
    newest = await client.runs(limit=1)
    if not newest:
        raise NotFound("there is no run yet", fix="Start one: foldstream run -- sleep 5")
    return str(newest[0]["id"])


def open_client(*, attempts: int = 3, on_wait: Callable[[FoldstreamError, float], None] | None = None) -> Client:
    """A client for the server that the environment names. Raises CannotStart."""
    settings = read_client(os.environ)
    return Client(settings.url, settings.token, attempts=attempts, on_wait=on_wait)
