"""Which acceptance row each test proves, and how it went: `pytest --acceptance` prints the rows of docs/acceptance.md.

`--req S1-28` runs only the tests that prove that row. `--strict-acceptance` fails when a row that needs a test has
none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("few", max_examples=15)

ROWS = Path(__file__).parent / "docs" / "acceptance.md"
ROW = re.compile(r"\| ([A-Z]\d?-\d+) \| (\w) \| (.*) \|$")

outcomes: dict[str, list[str]] = defaultdict(list)
proofs: dict[str, tuple[str, ...]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("acceptance")
    group.addoption("--req", action="append", default=[], metavar="ID", help="run only the tests that prove this row")
    group.addoption("--acceptance", action="store_true", help="print every row with pass, fail or no test")
    group.addoption("--strict-acceptance", action="store_true", help="fail when a row that needs a test has none")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = {id_ for id_, _, _ in rows()}
    for item in items:
        ids = tuple(id_ for mark in item.iter_markers("req") for id_ in mark.args)
        if unknown := set(ids) - known:
            raise pytest.UsageError(f"{item.nodeid} names rows that do not exist: {', '.join(sorted(unknown))}")
        proofs[item.nodeid] = ids
    wanted = set(config.getoption("--req"))
    if wanted:
        chosen = [item for item in items if wanted & set(proofs[item.nodeid])]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        for id_ in proofs.get(report.nodeid, ()):
            outcomes[id_].append(report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--acceptance"):
        return
    counts: dict[str, int] = defaultdict(int)
    terminalreporter.section("acceptance")
    for id_, class_, promise in rows():
        verdict = _verdict(id_, class_, promise)
        counts[verdict] += 1
        terminalreporter.write_line(f"{id_:6} {class_} {verdict:8} {promise[:110]}")
    terminalreporter.write_line("  ".join(f"{verdict}: {count}" for verdict, count in sorted(counts.items())))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--strict-acceptance") and exitstatus == 0:
        missing = [id_ for id_, class_, promise in rows() if _verdict(id_, class_, promise) == "no test"]
        if missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def rows() -> list[tuple[str, str, str]]:
    """(id, class, promise) of every row."""
    found = [ROW.match(line) for line in ROWS.read_text().splitlines()]
    return [(row[1], row[2], row[3]) for row in found if row]


def _verdict(id_: str, class_: str, promise: str) -> str:
    if see := re.search(r"\(see ([A-Z]\d?-\d+)\)$", promise):
        return "see " + see[1] if not outcomes.get(see[1]) else _verdict(see[1], class_, "")
    found = outcomes.get(id_)
    if not found:
        return "field" if class_ == "F" else "no test"
    return "pass" if all(outcome == "passed" for outcome in found) else "fail"
