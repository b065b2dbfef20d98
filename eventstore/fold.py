"""Fold: events become a state. The only way in which foldstream knows what happened.

Pure. A snapshot is nothing but an `At` somebody kept: folding on from it gives what folding from nothing gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from eventstore.event import Event

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class At(Generic[S]):
    """A state and the version of the stream at which it is exact."""

    state: S
    version: int


@dataclass(frozen=True, slots=True)
class Fold(Generic[S]):
    """initial: the state of a stream without events. evolve: the state after one more event (total: never raises)."""

    initial: S
    evolve: Callable[[S, Event], S]

    def __call__(self, events: Iterable[Event], since: At[S] | None = None) -> At[S]:
        """The state after ``events``, which follow ``since`` (default: the beginning) without a hole."""
        at = since if since is not None else At(self.initial, 0)
        state, version = at.state, at.version
        for event in events:
            if event.version != version + 1:
                raise ValueError(f"cannot fold version {event.version} onto version {version}: events are missing")
            state, version = self.evolve(state, event), event.version
        return At(state, version)
