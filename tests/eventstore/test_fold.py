"""A fold: the only way to know. In parts or at once, it comes to the same; a hole is an error, never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import BY_NAME, Event, Fold, NewEvent, replay
from eventstore.stores.memory import MemoryStore
from tests.eventstore.logs import BUILD_27, f27, recorded

pytestmark = pytest.mark.pure

COUNT: Fold[int] = Fold(0, lambda state, event: state + event.version)
BUILD = BY_NAME["build"].fold


def events(count: int) -> list[Event]:
    return recorded([NewEvent("custom", {"n": n}) for n in range(count)])


def test_a_stream_without_events_has_the_initial_state() -> None:
    assert (COUNT([]).state, COUNT([]).version) == (0, 0)


@given(count=st.integers(0, 30), cut=st.integers(0, 30))
def test_folding_in_two_parts_is_folding_once(count: int, cut: int) -> None:
    log = events(count)
    assert COUNT(log[cut:], since=COUNT(log[:cut])) == COUNT(log)


@pytest.mark.req("K-09")
@given(cut=st.integers(0, 12))
def test_a_build_folds_on_from_any_snapshot(cut: int) -> None:
    log = recorded(f27())
    assert BUILD(log[cut:], since=BUILD(log[:cut])) == BUILD(log)


def test_a_hole_is_refused() -> None:
    log = events(3)
    with pytest.raises(ValueError, match="cannot fold version 3 onto version 1"):
        COUNT([log[0], log[2]])


def test_a_repetition_is_refused() -> None:
    log = events(2)
    with pytest.raises(ValueError, match="cannot fold version 1 onto version 2"):
        COUNT([log[0]], since=COUNT(log))


async def test_replay_reads_page_by_page() -> None:
    store = MemoryStore()
    for _ in range(3):
        await store.append(BUILD_27, [NewEvent("custom")] * 900)
    assert [event.version async for event in replay(store, BUILD_27, after=5)] == list(range(6, 2701))
