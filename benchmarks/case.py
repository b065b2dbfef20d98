"""The words of the benchmarks: a case yields figures, a bench opens cases, a ratio names two figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured value, such as ("64 producers: rate", 21034.0, "events/s")."""

    name: str
    value: float
    unit: str


class Ratio(NamedTuple):
    """Figure ``of`` divided by figure ``to``; left out when one of them was not measured."""

    of: str
    to: str


class Absent(Exception):
    """Raised by a case that cannot be measured here, with the reason."""


Case = Callable[[], Iterable[Figure]]
"""Measures once. Called again for each run; must leave nothing behind."""


class Bench(NamedTuple):
    """name: what to type. conditions: what holds for all of its cases. open(quick): gives the cases by name, in order.

    quick  sizes that prove that everything works, in seconds; their figures mean nothing.
    """

    name: str
    conditions: str
    open: Callable[[bool], AbstractContextManager[Mapping[str, Case]]]
    ratios: Sequence[Ratio]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
