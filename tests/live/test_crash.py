"""A few rounds of the crash proof: kill -9 of Postgres and of the writer, and the log keeps its word.

`python -m benchmarks.crash` is the whole of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


def crash(folder: Path, *words: str) -> tuple[int, str, dict[str, float]]:
    """Exit code, what was printed, and the figures. ``folder`` is for whatever it writes."""
    folder.joinpath("work").mkdir()
    figures = folder / "figures.json"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash", "--json", str(figures), *words],
        env={**os.environ, "TMPDIR": str(folder / "work")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert figures.exists(), ended.stderr
    assert list(folder.joinpath("work").iterdir()) == [], "it cleans up"
    found = {line["name"].removeprefix("crash: "): line["value"] for line in json.loads(figures.read_text())}
    return ended.returncode, ended.stdout + ended.stderr, found


def test_whatever_is_killed_every_acknowledged_event_is_there_once(tmp_path: Path) -> None:
    code, told, figures = crash(tmp_path, "--rounds", "8", "--seed", "5")
    assert code == 0, told
    assert "WRONG" not in told
    assert figures["rounds"] == 8
    assert sum(times for name, times in figures.items() if name.startswith("struck: ")) == 8
    assert figures["events acknowledged"] > 8
    assert figures["appends that were told that nobody knows, or no answer"] > 0, "something was under way"


def test_the_proof_fails_when_answers_do_not_wait_for_the_commit(tmp_path: Path) -> None:
    code, told, figures = crash(tmp_path, "--rounds", "8", "--seed", "5", "--sabotage")
    assert code == 1, "synchronous_commit is off, and nobody noticed"
    assert "was acknowledged" in told
    assert "is not in the log" in told
    assert figures["what is wrong"] > 0
