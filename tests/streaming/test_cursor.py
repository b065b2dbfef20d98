"""The rule of delivery, by the vectors that the JS client passes too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import BadRequest
from streaming.cursor import MAX_VERSION, Step, parse_cursor, step

pytestmark = pytest.mark.pure

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "cursor.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_step_follows_the_shared_vectors(case: dict[str, int | str]) -> None:
    assert step(int(case["cursor"]), int(case["version"])) is Step(case["step"])


@given(st.lists(st.integers(1, 30), max_size=200))
def test_a_reader_that_obeys_step_never_skips_and_never_repeats(arrivals: list[int]) -> None:
    cursor, taken = 0, []
    for version in arrivals:
        if step(cursor, version) is Step.NEXT:
            taken.append(version)
            cursor = version
    assert taken == list(range(1, len(taken) + 1))


@pytest.mark.parametrize(("text", "cursor"), [(None, 0), ("", 0), ("0", 0), ("5", 5), (str(MAX_VERSION), MAX_VERSION)])
def test_cursors_are_whole_numbers(text: str | None, cursor: int) -> None:
    assert parse_cursor(text) == cursor


@pytest.mark.parametrize(
    "text", ["-1", "1.5", "abc", "٣", " 5", "1e3", "0x10", str(MAX_VERSION + 1), "9" * 400, "\x00"]
)
def test_anything_else_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_cursor(text)
    assert caught.value.pointer == "/lastEventId"
    assert "whole number" in caught.value.fix
