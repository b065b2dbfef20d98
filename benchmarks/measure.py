"""measure: runs the cases of a benchmark over and over, interleaved, and makes lines of what they yield."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import machine
from benchmarks.case import Absent, Bench, Ratio

GLANCE, QUICK_GLANCE = 1.0, 0.1
"""Seconds before each case in which only others use the CPU."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the result. reference and ratio: what value was divided by, and what came out."""

    name: str
    value: float | None
    unit: str
    reference: float | None
    ratio: float | None
    conditions: dict[str, Any]

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name:<72} {self.unit}"
        if self.reference is not None and self.ratio is not None:
            compared = f"{number(self.value)} / {number(self.reference)} {self.unit}"
            return f"{self.name:<72} {number(self.ratio):>9} x  ({compared})"
        runs, others = self.conditions["runs"], self.conditions["others_cpu_percent"]
        spread = f"({number(min(runs))} .. {number(max(runs))})" if len(runs) > 1 else ""
        return f"{self.name:<72} {number(self.value):>9} {self.unit:<10} {spread:<22} others {max(others):.0f} %"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """All values of one figure, and how busy others were before each of them."""

    unit: str
    values: list[float]
    others: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def measure(bench: Bench, *, runs: int, quick: bool) -> list[Line]:
    """Run every case ``runs`` times, A B C A B C, and give a line for each figure, absent case and ratio."""
    measured: dict[str, Measured] = {}
    absent: dict[str, str] = {}
    with bench.open(quick) as cases:
        for run in range(1, runs + 1):
            for name, case in cases.items():
                others = machine.busy_percent(QUICK_GLANCE if quick else GLANCE)
                started = time.perf_counter()
                try:
                    found = list(case())
                except Absent as why:
                    absent[name] = str(why)
                    continue
                for figure in found:
                    one = measured.setdefault(figure.name, Measured(figure.unit, [], []))
                    one.values.append(figure.value)
                    one.others.append(round(others, 1))
                told = f"{found[0].name} {number(found[0].value)} {found[0].unit}" if found else name
                _say(
                    f"{bench.name} {run}/{runs}  {told}  ({time.perf_counter() - started:.1f} s, others {others:.0f} %)"
                )
    common = {"bench": bench.name, "quick": quick, "under": bench.conditions, **machine.describe()}
    return [
        *(Line(f"{bench.name}: {name}", None, why, None, None, common) for name, why in absent.items()),
        *_figures(bench, measured, common),
        *_ratios(bench, measured, common),
    ]


def _figures(bench: Bench, measured: dict[str, Measured], common: dict[str, Any]) -> Iterator[Line]:
    for name, one in measured.items():
        conditions = {**common, "runs": one.values, "others_cpu_percent": one.others}
        yield Line(f"{bench.name}: {name}", one.median, one.unit, None, None, conditions)


def _ratios(bench: Bench, measured: dict[str, Measured], common: dict[str, Any]) -> Iterator[Line]:
    """Of the medians: what is printed above can be divided by whoever doubts it."""
    for ratio in bench.ratios:
        of, to = measured.get(ratio.of), measured.get(ratio.to)
        if of is not None and to is not None and to.median:
            conditions = {**common, "others_cpu_percent": [*of.others, *to.others]}
            name = f"{bench.name}: {ratio.of} / {_short(ratio)}"
            yield Line(name, of.median, of.unit, to.median, of.median / to.median, conditions)


def _short(ratio: Ratio) -> str:
    """The second name without what it has in common with the first: "64 producers: rate / pgbench, 32 clients"."""
    _, _, what = ratio.of.rpartition(": ")
    return ratio.to.removesuffix(f": {what}")


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def busiest(lines: Sequence[Line]) -> str:
    """One sentence on how far the figures can be trusted."""
    every = [others for line in lines for others in line.conditions.get("others_cpu_percent", ())]
    if not every:
        return "nothing was measured"
    return f"others used {statistics.median(every):.0f} % of the CPU before a case (median), {max(every):.0f} % at most"
