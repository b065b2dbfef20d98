"""crash_audit: what the log owes to those who were told something, as a function of what they were told. Pure.

Three things may have been said to whoever appended: it is recorded (at these versions), nothing was recorded, or nobody
knows. The log must keep the first two, and whatever was said an append is there as a whole or not at all, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TYPE = "custom"


class Append(NamedTuple):
    """One append that somebody has begun. name: unique, and everything in its events follows from it."""

    name: str
    stream: str
    size: int
    keyed: bool


class Row(NamedTuple):
    """An event as it lies in the table. stream: "" when no row of `streams` belongs to it."""

    stream: str
    version: int
    type: str
    key: str | None
    data: Mapping[str, Any]


def key_of(append: Append, part: int) -> str | None:
    """The key of the event number ``part`` (0, 1 ...) of an append."""
    return f"{append.name}.{part}" if append.keyed else None


def data_of(append: Append, part: int) -> dict[str, Any]:
    """The data of that event; of various lengths."""
    return {"append": append.name, "part": part, "of": append.size, "text": f"{append.name}/" * (1 + part % 7)}


@dataclass(slots=True)
class History:
    """What was begun and what was answered, in the order of the journals.

    acked    the versions told, once for each time that it was asked for.
    refused  those told that nothing was recorded. unknown: those told that nobody knows, or whose writer was killed.
    open     those without an answer so far.
    """

    tried: dict[str, Append] = field(default_factory=dict)
    acked: dict[str, list[Sequence[int]]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    open: dict[str, Append] = field(default_factory=dict)

    def begin(self, append: Append) -> None:
        """Somebody is going to append."""
        self.tried[append.name] = self.open[append.name] = append

    def answer(self, name: str, versions: Sequence[int]) -> None:
        """It was told: recorded at these versions."""
        self.open.pop(name, None)
        self.acked.setdefault(name, []).append(versions)

    def refuse(self, name: str) -> None:
        """It was told: nothing was recorded."""
        self.open.pop(name, None)
        self.refused.add(name)

    def lose(self, name: str) -> None:
        """Nobody will ever know."""
        self.open.pop(name, None)
        self.unknown.add(name)

    def of(self, streams: str) -> History:
        """A copy of what concerns the streams whose names begin with ``streams``."""
        tried = {name: append for name, append in self.tried.items() if append.stream.startswith(streams)}
        acked = {name: told for name, told in self.acked.items() if name in tried}
        return History(tried, acked, self.refused & tried.keys(), self.unknown & tried.keys())


def audit(history: History, rows: Iterable[Row], heads: Mapping[str, int]) -> Iterator[str]:
    """Every way in which the log breaks its word, a sentence each; nothing when it keeps it.

    rows   all events of the streams concerned, in the order of versions within each stream.
    heads  streams.version of those streams.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    last: dict[str, int] = {}
    for row in rows:
        before = last.get(row.stream, 0)
        if row.version != before + 1:
            yield f"{row.stream}: version {row.version} follows {before}"
        last[row.stream] = row.version
        append = history.tried.get(str(row.data.get("append")))
        if append is None:
            yield f"{row.stream} version {row.version}: nobody appended {dict(row.data)}"
            continue
        part = row.data.get("part", -1)
        asked = (append.stream, TYPE, key_of(append, part), data_of(append, part))
        if (row.stream, row.type, row.key, row.data) != asked:
            yield f"{row.stream} version {row.version}: {row} is not what was appended: {asked}"
        places.setdefault(append.name, []).append((part, row.version))
    for stream in {*heads, *last}:
        if heads.get(stream) != last.get(stream, 0):
            yield f"{stream}: streams.version is {heads.get(stream)}, and its last event is {last.get(stream, 0)}"
    for name, append in history.tried.items():
        yield from _broken(append, places.get(name, []), history)


def _broken(append: Append, places: list[tuple[int, int]], history: History) -> Iterator[str]:
    """What is wrong with one append; places: (part, version) of its events in the log, by version."""
    which = f"{append.name} in {append.stream}"
    told = history.acked.get(append.name, [])
    for versions in told[1:]:
        if list(versions) != list(told[0]):
            yield f"{which} was acknowledged at {_range(told[0])}, and when it was repeated at {_range(versions)}"
    if not places:
        if told:
            yield f"{which} was acknowledged at {_range(told[0])} and is not in the log"
        return
    parts = [part for part, _ in places]
    stands = [version for _, version in places]
    if len(set(parts)) < len(parts):
        yield f"{which} is there more than once: parts {parts} at {stands}"
    elif len(parts) != append.size:
        yield f"{which} is there in part: {len(parts)} of its {append.size} events, at {stands}"
    elif parts != list(range(append.size)) or stands[-1] - stands[0] != append.size - 1:
        yield f"{which} is not there in one piece: parts {parts} at {stands}"
    if told and list(told[0]) != stands:
        yield f"{which} was acknowledged at {_range(told[0])} and stands at {stands}"
    if append.name in history.refused and not told:
        yield f"{which} was said to be not recorded, and stands at {stands}"


def _range(versions: Sequence[int]) -> str:
    return f"versions {versions[0]}..{versions[-1]}" if versions else "no version"
