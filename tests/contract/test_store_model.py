"""Any history of appends and reads, against a list. The model below is the contract in twenty lines."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import NewEvent, StreamId
from eventstore.errors import Conflict, KeyReused
from tests.contract.conftest import Case

RUNS = count()
Told = tuple[int, str, Any, str | None]


class Model:
    """One stream: (type, data, key) in a list."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any, str | None]] = []

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


async def append(case: Case, stream: StreamId, events: list[NewEvent], expected: int | None) -> list[int] | str:
    try:
        return [event.version for event in await case.store.append(stream, events, expected=expected)]
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


@QUIET
@given(calls=st.lists(st.tuples(st.sampled_from("AB"), BATCH, st.none() | st.integers(0, 3)), min_size=2, max_size=6))
async def test_all_at_once_the_store_does_what_the_list_does_in_some_order(case: Case, calls: list[Any]) -> None:
    """Appends that race must have happened one after the other: in the order in which the log shows them."""
    run = next(RUNS)
    answers = await asyncio.gather(
        *(append(case, StreamId("build", f"{run}{name}"), events, expected) for name, events, expected in calls)
    )
    for name in "AB":
        mine = [
            (events, expected, answer)
            for (n, events, expected), answer in zip(calls, answers, strict=True)
            if n == name
        ]
        log = await case.store.read(StreamId("build", f"{run}{name}"))
        assert explains(mine, [(event.type, event.data) for event in log]), (name, mine, log)


def explains(calls: list[Any], log: list[Any]) -> bool:
    """There is an order of the calls in which the model gives these answers and ends with this log."""
    histories: list[tuple[list[int], list[Any]]] = [([], [])]
    for _ in calls:
        longer = []
        for done, entries in histories:
            for index, (events, expected, answer) in enumerate(calls):
                if index not in done:
                    model = Model()
                    model.log = list(entries)
                    if model.append(events, expected) == answer:
                        longer.append(([*done, index], model.log))
        histories = longer
    return any([entry[:2] for entry in entries] == log for _, entries in histories)
