"""The benchmarks run, say what they promise to say, and leave nothing behind. What they measure is not looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHES
from benchmarks.case import Bench
from benchmarks.measure import Line, number

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

FIELDS = {"name", "value", "unit", "reference", "ratio", "conditions"}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`python -m benchmarks`, with ``folder`` for whatever it writes."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *words],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES)
def test_a_quick_run_prints_and_writes_every_figure_and_ratio(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    written = tmp_path / "figures.json"
    with start(folder, bench.name, "--quick", "--json", str(written)) as process:
        printed, progress = process.communicate()
    assert process.returncode == 0, progress
    lines = json.loads(written.read_text())
    assert all(set(line) == FIELDS for line in lines)
    figures = {line["name"]: line for line in lines if line["value"] is not None and line["ratio"] is None}
    ratios = [line for line in lines if line["ratio"] is not None]
    assert len(figures) + len(ratios) + sum(line["value"] is None for line in lines) == len(lines)
    for line in figures.values():
        assert line["unit"]
        assert line["conditions"]["runs"] == [line["value"]]
        assert all(0 <= others <= 100 for others in line["conditions"]["others_cpu_percent"])
    rates = [line["value"] for line in figures.values() if line["unit"] in ("events/s", "ms")]
    assert rates
    assert min(rates) > 0
    for line in ratios:
        assert line["ratio"] == pytest.approx(line["value"] / line["reference"])
    measured = {name.removeprefix(f"{bench.name}: ") for name in figures}
    # A figure may be zero: the CPU of so short a run is less than a tick.
    possible = [
        ratio
        for ratio in bench.ratios
        if {ratio.of, ratio.to} <= measured and figures[f"{bench.name}: {ratio.to}"]["value"]
    ]
    assert len(ratios) == len(possible) > 0
    assert all(line["name"] in printed for line in lines)
    assert progress.count("1/1") >= 4, "a line of progress for each case"
    assert list(folder.iterdir()) == [], "everything was cleaned up"


def test_it_cleans_up_when_it_is_told_to_end(tmp_path: Path) -> None:
    with start(tmp_path, "append", "--quick", "--runs", "1000") as process:
        assert process.stderr
        assert process.stderr.readline().startswith("append 1/1000")
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_line_says_what_was_divided_by_what() -> None:
    ratio = Line("append: ours / theirs", 21_000.0, "events/s", 14_000.0, 1.5, {})
    assert str(ratio).split() == ["append:", "ours", "/", "theirs", "1.5", "x", "(21,000", "/", "14,000", "events/s)"]
    assert [number(value) for value in (12_345.6, 99.94, 0.1234)] == ["12,346", "99.9", "0.123"]
