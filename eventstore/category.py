"""Category: a kind of stream: its vocabulary, its fold, and how its state looks from outside.

Pure. A new category is one file in `categories/` and its name in the tuple `categories.ALL`.

Two numbers, for the two things that change over the years. ``version`` numbers the fold: events stay as they are and
come to mean something else, so that stored snapshots are made again. ``schema`` numbers the shape of the data: new
events are written in it, old ones are lifted to it when they are read (`eventstore.upcast`), so that the fold, and
everybody else, knows one shape only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from eventstore.event import Data
from eventstore.fold import At, Fold

S = TypeVar("S")

Upcast = Callable[[str, Data], tuple[str, Data]]
"""(type, data) under one schema number -> the same fact under the next. Pure; must not change ``data`` in place."""

MOST_PROJECT = 128


class Labels(NamedTuple):
    """What lists of streams are filtered by. project: None = of none; at most 128 characters."""

    status: str
    project: str | None = None


@dataclass(frozen=True, slots=True)
class Category(Generic[S]):
    """name      the part before the dash of a stream's name.
    version   the number of the fold: raised whenever the same events would give another state, or the state another
              shape. Snapshots of another version are not used.
    state     the class of the state: a frozen msgspec.Struct of JSON-like fields, which `eventstore.frozen` stores.
    fold      events -> state.
    aliases   other names for event types, accepted at append and stored under the canonical name.
    check     (type, data) -> the data to store: fills in what every reader may rely on; raises Invalid. Unknown types
              pass unchanged, so that new producers need no new server.
    is_final  True for a state after which nothing more is expected: live feeds end there.
    labels    what lists are filtered by.
    view      (id, at) -> the public JSON object of the state.
    schema    the number of the shape in which new events are written.
    upcasts   n -> how an event of schema n becomes one of schema n + 1: one for each number below ``schema``.
    statuses  every status that ``labels`` gives, in the order in which they come: what a list may be asked for.
    """

    name: str
    version: int
    state: type[S]
    fold: Fold[S]
    aliases: Mapping[str, str]
    check: Callable[[str, Data], Data]
    is_final: Callable[[S], bool]
    labels: Callable[[S], Labels]
    view: Callable[[str, At[S]], dict[str, Any]]
    schema: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)
    statuses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if set(self.upcasts) != set(range(1, self.schema)):
            raise ValueError(f"{self.name}: each schema below {self.schema} needs its upcast, and no other has one")


def project_of(data: Mapping[str, Any]) -> str | None:
    """The project that a request names, if it names one: ``projectId`` or ``project``."""
    for name in ("projectId", "project"):
        value = data.get(name)
        if isinstance(value, str) and value:
            return value[:MOST_PROJECT]
    return None
