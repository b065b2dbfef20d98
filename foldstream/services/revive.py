"""Starts again what has fallen: a server of ours that was killed comes back on the same socket, with the same data.

One thread looks twice a second, as nothing else of the launcher is sure to run. A server that falls again and again is
started at longer and longer intervals, never given up: its log says why it falls, and a full disk may be emptied.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from eventstore.errors import CannotStart
from foldstream.services.process import Server

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
LONGEST_PAUSE = 30.0


@contextmanager
def reviving(servers: Sequence[Server]) -> Iterator[None]:
    """While the block lasts."""
    over = threading.Event()
    thread = threading.Thread(target=_look_after, args=(servers, over), name="reviving", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look_after(servers: Sequence[Server], over: threading.Event) -> None:
    pauses = dict.fromkeys(servers, LOOK_SECONDS)
    due = dict.fromkeys(servers, 0.0)
    while not over.wait(LOOK_SECONDS):
        for server in servers:
            if not server.has_fallen or time.monotonic() < due[server]:
                continue
            log.error("%s has ended unexpectedly; it is started again (its log: %s)", server.title, server.log)
            server.start_again()
            try:
                server.wait_ready(over=over.is_set)
                log.warning("%s is back", server.title)
                pauses[server] = LOOK_SECONDS
            except CannotStart as error:
                log.error("%s", error)  # noqa: TRY400  # its words are for people, its place in our code is not
                pauses[server] = min(LONGEST_PAUSE, pauses[server] * 2)
            due[server] = time.monotonic() + pauses[server]
