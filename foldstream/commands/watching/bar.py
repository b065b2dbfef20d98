"""bar: a run as a picture on a terminal: its name, a bar, what happens now, its steps; output settles above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from foldstream.commands.watching.words import clean, duration, steps

BAR_WIDTH = 40
MOST_STEPS = 12
STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow"}


class Bar:
    """Use as ``with Bar(...) as bar``; draws only when told to, and so never more often than its user wants."""

    def __init__(self, icon: Mapping[str, str]) -> None:
        self._icon = icon
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Bar:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def draw(self, view: Mapping[str, Any], waiting: str, above: Sequence[str] = ()) -> None:
        """Show a state (`Category.view`). waiting: why nothing comes at the moment, empty: all is well. above: lines
        that settle above it for good."""
        if above:
            self._console.print(Text("\n").join(map(Text.from_ansi, above)), soft_wrap=True)
        self._live.update(picture(view, self._icon, waiting, datetime.now(UTC)), refresh=True)


def picture(view: Mapping[str, Any], icon: Mapping[str, str], waiting: str, now: datetime) -> RenderableType:
    """What stands on the terminal."""
    status = str(view["status"])
    if not view["lastEventId"]:
        return Text(waiting or f"Nothing has been recorded for {view['id']} yet. This starts by itself.", "dim")
    style = STYLES.get(status, "cyan")
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=100, completed=view["progress"], width=BAR_WIDTH, complete_style=style, finished_style=style),
        Text(f"{view['progress']:>3} %"),
        Text(_elapsed(view, now), "dim"),
    )
    parts: list[RenderableType] = [
        Text.assemble((clean(str(view["name"])), "bold"), "  ", (status, style), no_wrap=True, overflow="ellipsis"),
        row,
        Text(waiting or clean(str(view["message"])), "yellow" if waiting else "", no_wrap=True, overflow="ellipsis"),
    ]
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in _window(view["steps"], icon)]
    if view.get("previewUrl"):
        url = clean(str(view["previewUrl"]))
        parts.append(Text(f"{icon['final']} {url}", style=Style(link=url)))
    return Group(*parts)


def _elapsed(view: Mapping[str, Any], now: datetime) -> str:
    if not view["startedAt"]:
        return ""
    end = datetime.fromisoformat(view["endedAt"]) if view["endedAt"] else now
    return duration(max(0.0, (end - datetime.fromisoformat(view["startedAt"])).total_seconds()))


def _window(found: list[Mapping[str, Any]], icon: Mapping[str, str]) -> list[str]:
    """The steps around those that run; how many there are before and after."""
    shown = steps(found, icon)
    if len(shown) <= MOST_STEPS:
        return shown
    first_open = next((i for i, step in enumerate(found) if step["status"] != "completed"), len(found))
    begin = max(0, min(first_open - 3, len(shown) - MOST_STEPS))
    end = begin + MOST_STEPS
    before = [f"{icon['done']} {begin} more"] if begin else []
    after = [f"{icon['next']} {len(shown) - end} more"] if end < len(shown) else []
    return [*before, *shown[begin:end], *after]
