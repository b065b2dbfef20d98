"""shows: the ways in which a followed run is shown: its events as NDJSON, lines, or a picture that is redrawn."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Protocol

import anyio
import orjson

from eventstore.categories import BY_NAME
from eventstore.errors import FoldstreamError
from eventstore.event import START, Event, StreamId
from eventstore.fold import At
from foldstream.client import Json
from foldstream.commands.talk import put, say
from foldstream.commands.watching.bar import Bar
from foldstream.commands.watching.words import icons, lines

REDRAW = 0.1
"""Seconds between two pictures: ten a second at most."""
TICK = 1.0
"""Seconds after which the clock in the picture is set right when nothing else happens."""


class Trouble:
    """What the connection suffers from at the moment; a client calls it before it waits."""

    def __init__(self) -> None:
        self.now = ""
        self.news = anyio.Event()
        self.speaks = True

    def __call__(self, error: FoldstreamError, seconds: float) -> None:
        if not self.now and self.speaks:
            say(f"Connection lost ({error.detail}). Trying again ...")
        self.now = f"Connection lost. Trying again in {seconds:.0f} s"
        self.news.set()

    def end(self) -> None:
        """Something has come."""
        self.now = ""


class Watched:
    """The run, folded from what has been followed."""

    def __init__(self, stream: StreamId) -> None:
        self._stream = stream
        self._category = BY_NAME[stream.category]
        self._at: At[Any] = At(self._category.fold.initial, 0)

    def take(self, event: Json) -> None:
        """One event of `Client.follow`."""
        if event["id"] == 0:  # the log has begun anew
            self._at = At(self._category.fold.initial, 0)
            return
        at = datetime.fromisoformat(event["timestamp"])
        recorded = Event(self._stream, event["id"], START, event["type"], orjson.dumps(event["data"]), at)
        self._at = self._category.fold([recorded], since=self._at)

    @property
    def view(self) -> dict[str, Any]:
        """The state as the server would show it."""
        return self._category.view(self._stream.id, self._at)

    @property
    def status(self) -> str:
        """Its one word: executing, completed, ..."""
        return str(self.view["status"])


class Show(AbstractContextManager[Any], Protocol):
    """Entered before the first event and left after the last one."""

    def event(self, event: Json) -> None:
        """Show one."""

    async def keep_up(self) -> None:
        """What goes on beside the events, until cancelled."""


def show_for(progress: str, watched: Watched, trouble: Trouble, *, color: bool) -> Show:
    """``progress``: json, plain or tty."""
    if progress == "json":
        return Events()
    return Picture(watched, trouble, color=color) if progress == "tty" else Lines(color=color)


class Events(nullcontext[None]):
    """Each event as a line of JSON."""

    def event(self, event: Json) -> None:
        put(orjson.dumps(event).decode())

    async def keep_up(self) -> None:
        """Nothing."""


class Lines(nullcontext[None]):
    """A line for each thing that happens, and the output."""

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color
        self._icons: Mapping[str, str] = icons()

    def event(self, event: Json) -> None:
        for line in lines(event, self._icons, color=self._color):
            put(line)

    async def keep_up(self) -> None:
        """Nothing."""


class Picture(AbstractContextManager["Picture"]):
    """The state, drawn anew; what a command writes settles above it."""

    def __init__(self, watched: Watched, trouble: Trouble, *, color: bool) -> None:
        self._watched, self._trouble, self._color = watched, trouble, color
        self._trouble.speaks = False
        self._above: list[str] = []
        self._bar = Bar(icons())

    def __enter__(self) -> Picture:
        self._bar.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._draw()
        self._bar.__exit__()

    def event(self, event: Json) -> None:
        if event["type"] in ("run_output", "deploy_log"):
            self._above += lines(event, icons(), color=self._color)
        self._trouble.news.set()

    async def keep_up(self) -> None:
        """Draw when there is news, and when there is none for a while."""
        while True:
            self._trouble.news = anyio.Event()
            self._draw()
            await anyio.sleep(REDRAW)
            with anyio.move_on_after(TICK - REDRAW):
                await self._trouble.news.wait()

    def _draw(self) -> None:
        above, self._above = self._above, []
        self._bar.draw(self._watched.view, self._trouble.now, above)
