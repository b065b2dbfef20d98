"""The audit of the crash proof finds what it is there to find, in histories made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.crash_audit import TYPE, Append, History, Row, audit, data_of, key_of

pytestmark = pytest.mark.pure

SINGLE = Append("w1:0:0", "build-0.1", 1, keyed=False)
LIST = Append("w1:1:0", "build-0.1", 4, keyed=True)
OTHER = Append("w1:2:0", "build-0.2", 2, keyed=True)


def rows(*appends: Append, after: int = 0) -> list[Row]:
    """Their events as they should lie in one stream."""
    parts = [(append, part) for append in appends for part in range(append.size)]
    return [
        Row(append.stream, version, TYPE, key_of(append, part), data_of(append, part))
        for version, (append, part) in enumerate(parts, after + 1)
    ]


def history(*appends: Append, acked: Sequence[tuple[Append, Sequence[int]]] = ()) -> History:
    told = History()
    for append in appends:
        told.begin(append)
    for append, versions in acked:
        told.answer(append.name, versions)
    return told


def heads(log: Sequence[Row]) -> dict[str, int]:
    return {row.stream: row.version for row in log}


def wrong(told: History, log: Sequence[Row], **other: int) -> list[str]:
    return list(audit(told, log, other or heads(log)))


TOLD = history(SINGLE, LIST, OTHER, acked=[(SINGLE, [1]), (LIST, [2, 3, 4, 5]), (OTHER, [1, 2])])
LOG = [*rows(SINGLE, LIST), *rows(OTHER)]


def test_a_log_that_keeps_its_word_is_right() -> None:
    assert wrong(TOLD, LOG) == []


def test_what_nobody_was_told_of_may_be_there_or_not() -> None:
    assert wrong(history(SINGLE, LIST), rows(SINGLE, LIST)) == []
    assert wrong(history(SINGLE, LIST), rows(LIST)) == []
    assert wrong(history(SINGLE, LIST), []) == []


def test_an_acknowledged_append_that_is_not_there_is_found() -> None:
    assert wrong(TOLD, LOG[:5]) == ["w1:2:0 in build-0.2 was acknowledged at versions 1..2 and is not in the log"]


def test_an_acknowledged_append_that_stands_elsewhere_is_found() -> None:
    [sentence] = wrong(history(SINGLE, LIST, acked=[(SINGLE, [1])]), rows(LIST, SINGLE))
    assert sentence == "w1:0:0 in build-0.1 was acknowledged at versions 1..1 and stands at [5]"


def test_an_append_that_is_there_twice_is_found() -> None:
    told = history(SINGLE, LIST)
    [sentence] = wrong(told, rows(LIST, SINGLE, SINGLE))
    assert sentence == "w1:0:0 in build-0.1 is there more than once: parts [0, 0] at [5, 6]"
    assert "more than once" in wrong(told, rows(LIST, SINGLE, LIST))[0]


@pytest.mark.parametrize("part", range(4))
def test_half_a_batch_is_found(part: int) -> None:
    log = rows(LIST)
    without = [row._replace(version=n) for n, row in enumerate((*log[:part], *log[part + 1 :]), 1)]
    [sentence] = wrong(history(LIST), without)
    assert sentence == "w1:1:0 in build-0.1 is there in part: 3 of its 4 events, at [1, 2, 3]"


def test_a_batch_in_another_order_or_with_something_in_between_is_found() -> None:
    log = rows(LIST)
    turned = [log[1]._replace(version=1), log[0]._replace(version=2), *log[2:]]
    assert "not there in one piece" in wrong(history(LIST), turned)[0]
    [alone] = rows(SINGLE, after=1)
    divided = [log[0], alone, *(row._replace(version=row.version + 1) for row in log[1:])]
    assert "not there in one piece" in wrong(history(LIST, SINGLE), divided)[0]


def test_a_hole_is_found() -> None:
    log = [*rows(SINGLE), *rows(LIST, after=2)]
    assert wrong(history(SINGLE, LIST), log) == ["build-0.1: version 3 follows 1"]


def test_a_version_that_stands_twice_is_found() -> None:
    log = [*rows(SINGLE), *rows(LIST)]
    assert wrong(history(SINGLE, LIST), log) == ["build-0.1: version 1 follows 1"]


def test_a_head_that_is_not_the_last_version_is_found() -> None:
    sentences = wrong(history(SINGLE, LIST), rows(SINGLE, LIST), **{"build-0.1": 6})
    assert sentences == ["build-0.1: streams.version is 6, and its last event is 5"]
    [sentence] = audit(history(LIST), rows(LIST), {})
    assert sentence == "build-0.1: streams.version is None, and its last event is 4"
    assert list(audit(history(LIST), [], {"build-0.1": 1})) != []


@pytest.mark.parametrize(
    "change",
    [
        {"type": "other"},
        {"key": None},
        {"key": "other"},
        {"data": {**data_of(LIST, 0), "text": ""}},
        {"data": {**data_of(LIST, 0), "more": 1}},
    ],
)
def test_an_event_that_is_not_what_was_appended_is_found(change: dict[str, object]) -> None:
    log = rows(LIST)
    [sentence] = wrong(history(LIST), [log[0]._replace(**change), *log[1:]])
    assert "is not what was appended" in sentence


def test_an_event_in_another_stream_is_found() -> None:
    stray = [row._replace(stream="build-0.2") for row in rows(LIST)]
    assert len(wrong(history(LIST), stray)) == 4


def test_an_event_that_nobody_appended_is_found() -> None:
    [sentence] = wrong(history(LIST), [*rows(LIST), *rows(SINGLE, after=4)])
    assert sentence.startswith("build-0.1 version 5: nobody appended")


def test_what_was_said_to_be_not_recorded_must_not_be_there() -> None:
    told = history(SINGLE, LIST)
    told.refuse(SINGLE.name)
    assert wrong(told, rows(LIST)) == []
    [sentence] = wrong(told, rows(SINGLE, LIST))
    assert sentence == "w1:0:0 in build-0.1 was said to be not recorded, and stands at [1]"


def test_a_repetition_must_get_the_first_answer() -> None:
    assert wrong(history(LIST, acked=[(LIST, [1, 2, 3, 4]), (LIST, [1, 2, 3, 4])]), rows(LIST)) == []
    [sentence] = wrong(history(LIST, acked=[(LIST, [1, 2, 3, 4]), (LIST, [5, 6, 7, 8])]), rows(LIST))
    assert "was acknowledged at versions 1..4, and when it was repeated at versions 5..8" in sentence


def test_what_has_an_answer_is_not_open() -> None:
    told = history(SINGLE, LIST, OTHER, acked=[(LIST, [2, 3, 4, 5])])
    told.lose(OTHER.name)
    assert list(told.open) == [SINGLE.name]
    assert list(told.of("build-0.1").tried) == [SINGLE.name, LIST.name]
    assert told.of("build-0.1").unknown == set()


@given(st.data())
def test_whatever_is_taken_out_of_an_acknowledged_log_is_missed(data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, len(LOG) - 1), min_size=1))
    assert wrong(TOLD, [row for index, row in enumerate(LOG) if index not in gone], **heads(LOG)) != []
