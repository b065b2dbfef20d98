"""Which appends share a commit: in order, never twice a stream where it matters, and nobody is overtaken for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import NewEvent, StreamId
from eventstore.admit import admit
from eventstore.stores.batch import Group, Plan, plan

pytestmark = pytest.mark.pure


def group(stream: str, *keys: str, size: int = 1, expected: int | None = None, alone: bool = False) -> Group:
    id_ = StreamId("build", stream)
    events = [NewEvent("custom", key=key) for key in keys] or [NewEvent("custom")] * size
    return Group(id_, admit(id_, events), expected, alone)


def chosen(waiting: list[Group], **rules: object) -> tuple[list[int], list[int], list[int]]:
    """The plan as places in ``waiting``: (batch, alone, left)."""
    made: Plan[Group] = plan(waiting, **rules)  # type: ignore[arg-type]
    return tuple([waiting.index(g) for g in part] for part in (made.batch, made.alone, made.left))  # type: ignore[return-value]


def test_all_that_waits_goes_into_one_batch() -> None:
    assert chosen([group("a"), group("b"), group("a")]) == ([0, 1, 2], [], [])


def test_a_batch_ends_where_the_next_append_does_not_fit_and_nothing_overtakes_it() -> None:
    assert chosen([group("a", size=3), group("b", size=3), group("c")], most=5) == ([0], [], [1, 2])


def test_an_append_larger_than_a_batch_is_one_of_its_own() -> None:
    assert chosen([group("a", size=9), group("b")], most=5) == ([0], [], [1])


def test_an_expectation_must_be_the_first_of_its_stream() -> None:
    assert chosen([group("a", expected=0), group("a"), group("b")]) == ([0, 1, 2], [], [])
    assert chosen([group("a"), group("a", expected=1), group("a"), group("b")]) == ([0, 3], [], [1, 2])


def test_the_same_key_waits_for_the_next_batch() -> None:
    assert chosen([group("a", "k"), group("a", "j", "k"), group("b", "k")]) == ([0, 2], [], [1])


def test_a_stream_keeps_its_order_behind_one_that_waits() -> None:
    assert chosen([group("a", "k"), group("a", "k"), group("a", "j")]) == ([0], [], [1, 2])


def test_a_busy_stream_waits() -> None:
    assert chosen([group("a"), group("b")], busy={StreamId("build", "a")}) == ([1], [], [0])


def test_alone_is_alone_with_its_stream() -> None:
    waiting = [group("a"), group("a", alone=True), group("b", alone=True), group("b"), group("c", alone=True)]
    assert chosen(waiting, lanes=2) == ([0], [2, 4], [1, 3])
    assert chosen(waiting, lanes=1) == ([0], [2], [1, 3, 4])
    assert chosen(waiting, most=0, lanes=1) == ([], [2], [0, 1, 3, 4])


GROUPS = st.builds(
    lambda stream, keys, size, expected, alone: group(stream, *keys, size=size, expected=expected, alone=alone),
    st.sampled_from("abc"),
    st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
    st.integers(1, 4),
    st.none() | st.just(0),
    st.booleans(),
)


@given(st.lists(GROUPS, max_size=12), st.sets(st.sampled_from("abc")), st.integers(0, 6), st.integers(0, 2))
def test_every_plan_keeps_the_rules(waiting: list[Group], busy: set[str], most: int, lanes: int) -> None:
    made = plan(waiting, busy={StreamId("build", name) for name in busy}, most=most, lanes=lanes)
    place = {id(g): n for n, g in enumerate(waiting)}
    started = made.batch + made.alone
    assert sorted(place[id(g)] for g in started + made.left) == list(range(len(waiting))), "each is somewhere, once"
    assert [place[id(g)] for g in made.left] == sorted(place[id(g)] for g in made.left)
    assert len(made.alone) <= lanes
    assert not busy & {g.stream.id for g in started}
    assert not {g.stream for g in made.alone} & {g.stream for g in made.batch}
    assert len(made.batch) <= 1 or sum(len(g.drafts) for g in made.batch) <= most
    for n, g in enumerate(started):
        for other in made.left:
            assert g.stream != other.stream or place[id(g)] < place[id(other)], "a stream keeps its order"
        for other in started[n + 1 :]:
            if g.stream == other.stream:
                assert other.expected is None
                assert not {d.key for d in g.drafts if d.key} & {d.key for d in other.drafts if d.key}


@given(st.lists(GROUPS, max_size=12), st.integers(1, 6))
def test_everybody_has_his_turn(waiting: list[Group], most: int) -> None:
    rounds = 0
    while waiting:
        made = plan(waiting, most=most, lanes=1)
        assert made.batch or made.alone
        waiting = made.left
        rounds += 1
    assert rounds <= 12
