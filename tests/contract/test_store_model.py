"""Any history of appends and reads, against a list. The model below is the contract in twenty lines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import NewEvent, StreamId
from eventstore.errors import Conflict, KeyReused
from tests.contract.conftest import Case

RUNS = count()


class Model:
    """One stream: (type, data, key) in a list."""

    def __init__(self, log: Iterable[tuple[str, Any, str | None]] = ()) -> None:
        self.log = list(log)

    def append(self, events: list[NewEvent], expected: int | None) -> list[int] | str:
        """The versions answered, or the name of the error."""
        known = {key: n for n, (_, _, key) in enumerate(self.log, 1) if key is not None}
        for event in events:
            if event.key in known and self.log[known[event.key] - 1][:2] != (event.type, event.data):
                return "KeyReused"
        new = [event for event in events if event.key not in known]
        if new and expected is not None and expected != len(self.log):
            return f"Conflict at {len(self.log)}"
        versions = []
        for event in events:
            if event in new:
                self.log.append((event.type, event.data, event.key))
            versions.append(known[event.key] if event.key in known else len(self.log))
        return versions

    def read(self, after: int, limit: int) -> list[tuple[int, str, Any]]:
        return [(n, type_, data) for n, (type_, data, _) in enumerate(self.log, 1) if n > after][:limit]


EVENT = st.builds(
    lambda type_, n, key: NewEvent(type_, {"n": n}, key=key),
    st.sampled_from(["a", "b"]),
    st.integers(0, 1),
    st.none() | st.sampled_from("wxyz"),
)
BATCH = st.lists(EVENT, min_size=1, max_size=3, unique_by=lambda event: event.key or object())
APPEND = st.tuples(st.just("append"), st.sampled_from("ABC"), BATCH, st.none() | st.integers(0, 4))
READ = st.tuples(st.just("read"), st.sampled_from("ABC"), st.integers(0, 6), st.integers(0, 4))


async def append(
    case: Case, stream: StreamId, events: list[NewEvent], expected: int | None, *, elsewhere: bool = False
) -> list[int] | str:
    """What the model would answer. elsewhere: another process does it, on the same log."""
    store = case.other if elsewhere else case.store
    try:
        recorded = await store.append(stream, events, expected=expected)
        assert [(event.type, event.data) for event in recorded] == [(event.type, event.data) for event in events]
        return [event.version for event in recorded]
    except Conflict as conflict:
        return f"Conflict at {conflict.actual}"
    except KeyReused:
        return "KeyReused"


QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(steps=st.lists(APPEND | READ, max_size=15))
async def test_one_after_the_other_the_store_does_what_the_list_does(case: Case, steps: list[Any]) -> None:
    run = next(RUNS)
    models = {name: Model() for name in "ABC"}
    for verb, name, *arguments in steps:
        stream = StreamId("build", f"{run}{name}")
        if verb == "append":
            assert await append(case, stream, *arguments) == models[name].append(*arguments)
        else:
            found = await case.store.read(stream, *arguments)
            assert [(event.version, event.type, event.data) for event in found] == models[name].read(*arguments)


CALL = st.tuples(st.sampled_from("AB"), BATCH, st.none() | st.integers(0, 6), st.booleans())
BURSTS = st.lists(st.lists(CALL, min_size=1, max_size=5), min_size=1, max_size=3)


@QUIET
@given(bursts=BURSTS)
async def test_all_at_once_the_store_does_what_the_list_does_in_some_order(case: Case, bursts: list[Any]) -> None:
    """Appends that race, in one process or in two, must have happened one after the other: in the order in which the
    log shows them. Burst follows burst, so that a repetition races with new events, and both with ``expected``."""
    run = next(RUNS)
    possible = {name: [Model()] for name in "AB"}
    for burst in bursts:
        answers = await asyncio.gather(
            *(
                append(case, StreamId("build", f"{run}{name}"), events, expected, elsewhere=elsewhere)
                for name, events, expected, elsewhere in burst
            )
        )
        for name in "AB":
            mine = [(call[1], call[2], answer) for call, answer in zip(burst, answers, strict=True) if call[0] == name]
            log = await case.store.read(StreamId("build", f"{run}{name}"))
            assert [event.version for event in log] == list(range(1, len(log) + 1))
            possible[name] = explain(possible[name], mine, [(event.type, event.data) for event in log])
            assert possible[name], (name, mine, log)


def explain(before: list[Model], calls: list[Any], log: list[Any]) -> list[Model]:
    """What the stream may be now: for some order of the calls the model gives these answers and ends with this log.

    Which of two equal events has the key does not show in the log, so that more than one history may fit.
    """
    histories: list[tuple[frozenset[int], list[Any]]] = [(frozenset(), model.log) for model in before]
    for _ in calls:
        longer = []
        for done, entries in histories:
            for index in range(len(calls)):
                events, expected, answer = calls[index]
                if index not in done:
                    model = Model(entries)
                    if model.append(events, expected) == answer:
                        longer.append((done | {index}, model.log))
        histories = [one for n, one in enumerate(longer) if one not in longer[:n]]
    ends = [entries for _, entries in histories if [entry[:2] for entry in entries] == log]
    return [Model(entries) for n, entries in enumerate(ends) if entries not in ends[:n]]


def test_a_history_that_no_order_explains_is_noticed() -> None:
    one, two = [NewEvent("a", {"n": 0}, key="w")], [NewEvent("b", {"n": 1})]
    fresh = [Model()]
    log = [("a", {"n": 0}), ("b", {"n": 1})]
    assert explain(fresh, [(one, None, [1]), (two, None, [2])], log)
    assert explain(fresh, [(one, None, [1]), (two, 1, [2]), (one, 0, [1])], log), "a repetition succeeds"
    assert not explain(fresh, [(one, None, [1]), (two, None, [1])], log), "one version, told twice"
    assert not explain(fresh, [(one, None, [1]), (two, 0, [2])], log), "expected 0 and was given 2"
    assert not explain(fresh, [(one, None, [1]), (two, 0, "Conflict at 0")], log[:1]), "refused for no reason"
    assert not explain(fresh, [(one, None, [1]), (one, None, [2])], [log[0], log[0]]), "a key, recorded twice"
    assert not explain(fresh, [(one, None, [1]), (two, None, [2])], log[:1]), "told, and not there"
    assert not explain(fresh, [(one, None, [1])], log), "there, and never appended"
