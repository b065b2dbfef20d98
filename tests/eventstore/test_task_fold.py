"""The state of a task: the growing list of its messages, what it answers, and that both come from the events alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import START, Event, NewEvent, StreamId
from eventstore.categories.task import CATEGORY, CHANGES, FINAL, MOST_MESSAGES, TaskRun, old_view, percent, view
from eventstore.categories.task_vocabulary import ALIASES, MESSAGES, TYPES, check
from eventstore.errors import Invalid
from tests.eventstore.logs import BEGIN, recorded

pytestmark = pytest.mark.pure

FT = json.loads((Path(__file__).parent.parent / "fixtures" / "ft.json").read_text())
ABC_123 = StreamId("task", "abc-123")
fold = CATEGORY.fold


def ft(count: int | None = None) -> list[Event]:
    """Task abc-123 of the source document as it was recorded; the first ``count`` events."""
    events = [NewEvent(e["type"], e["data"], at=datetime.fromisoformat(e["timestamp"])) for e in FT["events"]]
    return recorded(events[:count], stream=ABC_123)


def after(*events: NewEvent | str) -> TaskRun:
    made = [NewEvent(event) if isinstance(event, str) else event for event in events]
    return fold(recorded(made, stream=ABC_123)).state


def messages(state: TaskRun) -> list[str]:
    return [said["message"] for said in state.result_data["progress"]]


def written_in_sql(log: Sequence[tuple[str, Any]]) -> list[Event]:
    """Events that no vocabulary has checked."""
    return [
        Event(ABC_123, version, START, type_, orjson.dumps(data), BEGIN + timedelta(seconds=version))
        for version, (type_, data) in enumerate(log, 1)
    ]


@pytest.mark.req("S4-04", "S4-08", "S4-09")
def test_task_abc_123_says_its_eight_messages_at_their_times() -> None:
    answer = old_view("abc-123", fold(ft()))
    assert [(one["message"], one["timestamp"]) for one in answer["result_data"]["progress"]] == [
        (one["message"], one["timestamp"] + "Z") for one in FT["progress"]
    ]
    assert all(one.keys() == {"message", "timestamp"} for one in answer["result_data"]["progress"])


@pytest.mark.req("S4-03")
def test_the_answer_has_the_documents_fields_and_the_cursor_they_forgot() -> None:
    answer = old_view("abc-123", fold(ft()))
    del answer["result_data"]
    assert answer == {
        "task_id": "abc-123",
        "type": "shopify_order",
        "current_status": "completed",
        "error_message": None,
        "created_at": "2025-11-23T10:00:00.000000Z",
        "started_at": "2025-11-23T10:00:00.123456Z",
        "completed_at": "2025-11-23T10:00:25.890123Z",
        "lastEventId": 9,
    }


@pytest.mark.req("S4-05")
@pytest.mark.parametrize("microsecond", [0, 1, 123456, 999999])
def test_times_have_six_digits_even_where_they_are_zero(microsecond: int) -> None:
    at = datetime(2025, 11, 23, 12, 0, 25, microsecond, tzinfo=UTC)
    answer = old_view("1", fold(recorded([NewEvent("task_failed", at=at)], stream=ABC_123)))
    times = [answer["created_at"], answer["completed_at"], answer["result_data"]["progress"][0]["timestamp"]]
    assert all(re.fullmatch(r"2025-11-23T12:00:25\.\d{6}Z", time) for time in times)


@pytest.mark.req("S4-01")
def test_the_list_grows_while_the_task_runs() -> None:
    counts = [len(old_view("1", fold(ft(n)))["result_data"]["progress"]) for n in range(10)]
    assert counts == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.req("S4-06")
def test_a_task_is_pending_then_processing_then_completed_or_failed() -> None:
    statuses = [fold(ft(n)).state.status for n in range(10)]
    assert statuses == ["pending"] * 2 + ["processing"] * 7 + ["completed"]
    assert after("task_created", "task_started", "task_failed").status == "failed"


@pytest.mark.req("S4-21", "S4-08", "S4-09")
def test_a_failure_says_why_in_the_error_and_in_the_list() -> None:
    failed = NewEvent("task_failed", {"error": "card declined", "message": "Checkout failed: card declined"})
    state = after("task_started", failed)
    assert (state.error, messages(state)[-1]) == ("card declined", "Checkout failed: card declined")
    assert old_view("1", fold(recorded([failed], stream=ABC_123)))["error_message"] == "card declined"
    assert messages(after(NewEvent("task_failed", {"error": "boom"}))) == ["Task failed: boom"]


@pytest.mark.req("S4-09", "S4-26")
def test_the_worker_that_took_the_task_is_named() -> None:
    state = after(NewEvent("task_started", {"worker": "worker-7"}))
    assert (state.worker, messages(state)) == ("worker-7", ["Task started by worker-7"])
    assert messages(after("task_started")) == ["Task started by a worker"]


@pytest.mark.req("S4-20")
def test_a_task_that_was_reset_waits_again_and_keeps_what_it_said() -> None:
    begun = [NewEvent("task_started", {"worker": "a"}), NewEvent("task_progress", {"message": "one"})]
    state = after(*begun, "task_reset")
    assert (state.status, state.worker, state.started_at, state.said) == ("pending", None, None, 0)
    assert state.message == "Starting again: the worker fell silent"
    again = after(*begun, "task_reset", NewEvent("task_started", {"worker": "b"}))
    assert (again.status, again.worker) == ("processing", "b")
    assert messages(again) == ["Task started by a", "one", "Task started by b"]


@pytest.mark.req("S4-10")
def test_a_step_keeps_its_icon() -> None:
    said = after(NewEvent("task_progress", {"message": "Opening product page", "icon": "🌐"}))
    progress = old_view("1", fold(written_in_sql([("task_progress", {"message": "x", "icon": "🌐"})])))
    assert said.result_data["progress"][0]["icon"] == "🌐"
    assert progress["result_data"]["progress"][0]["icon"] == "🌐"


def test_the_result_stands_beside_the_list_and_never_replaces_it() -> None:
    state = fold(recorded([NewEvent("task_completed", {"result": {"order": 5, "progress": "mine"}})], stream=ABC_123))
    data = old_view("1", state)["result_data"]
    assert (data["order"], [one["message"] for one in data["progress"]]) == (5, ["Task completed"])


def test_after_the_end_only_the_count_and_the_time_move() -> None:
    state = after("task_completed", NewEvent("task_failed", {"error": "late"}), "task_reset", "task_progress")
    assert (state.status, state.error, state.events, messages(state)) == ("completed", None, 4, ["Task completed"])


def test_progress_without_a_start_is_a_start() -> None:
    state = after(NewEvent("task_progress", {"message": "busy"}))
    assert (state.status, state.started_at) == ("processing", BEGIN + timedelta(seconds=1))


def test_other_events_only_speak() -> None:
    state = after("task_created", NewEvent("note", {"message": "by the way"}))
    assert (state.status, state.message, messages(state), state.events) == ("pending", "by the way", [], 2)


@pytest.mark.req("S4-25")
def test_at_the_fifth_message_four_steps_are_done_one_runs_and_three_are_to_come() -> None:
    at = fold(ft(6))
    shown = view("abc-123", at)
    assert [step["status"] for step in shown["steps"]] == ["completed"] * 4 + ["running"] + ["pending"] * 3
    assert [step["name"] for step in shown["steps"]] == [one["message"] for one in FT["progress"]]
    assert (shown["progress"], shown["status"], shown["message"]) == (56, "processing", "Navigating to checkout")


@pytest.mark.req("S4-19")
def test_each_step_lasts_until_the_next_begins() -> None:
    steps = view("abc-123", fold(ft()))["steps"]

    def seconds(step: dict[str, Any]) -> float:
        begin, end = (datetime.fromisoformat(step[name]) for name in ("startedAt", "endedAt"))
        return (end - begin).total_seconds()

    assert [seconds(step) for step in steps] == pytest.approx(
        [1.111111, 1.111111, 3.111111, 5.111101, 5.111011, 5.110111, 5.101111, 0]
    )


@pytest.mark.req("S4-19")
def test_a_failed_task_shows_in_which_step_it_failed() -> None:
    failed = NewEvent("task_failed", {"error": "no stock"})
    log = ft(6) + recorded([failed], after=6, stream=ABC_123)
    shown = view("abc-123", fold(log))
    assert [step["status"] for step in shown["steps"]] == ["completed"] * 4 + ["failed"] + ["pending"] * 3
    assert (shown["steps"][4]["error"], shown["progress"]) == ("no stock", 56)


def test_without_a_plan_the_bar_waits_for_the_end() -> None:
    assert [percent(after(*["task_progress"] * n)) for n in range(3)] == [0, 0, 0]
    assert percent(after("task_progress", "task_completed")) == 100


def test_more_messages_than_planned_do_not_fill_the_bar() -> None:
    planned = NewEvent("task_created", {"steps": ["a"]})
    assert percent(after(planned, *["task_progress"] * 500)) == 99


def test_the_list_keeps_the_newest_messages_only() -> None:
    log = [("task_progress", {"message": f"{n} " + "x" * 2000}) for n in range(MOST_MESSAGES + 2)]
    state = fold(written_in_sql(log)).state
    said = messages(state)
    assert (len(said), said[0][:2], state.said) == (MOST_MESSAGES, "2 ", MOST_MESSAGES + 2)
    assert max(map(len, said)) == 1000
    assert len(view("1", fold(written_in_sql(log)))["steps"]) == MOST_MESSAGES


def test_a_task_nobody_has_heard_of_is_pending() -> None:
    assert old_view("1", fold([])) == {
        "task_id": "1",
        "type": "task",
        "current_status": "pending",
        "result_data": {"progress": []},
        "error_message": None,
        "created_at": None,
        "started_at": None,
        "completed_at": None,
        "lastEventId": 0,
    }


def test_lists_know_the_project_of_a_task() -> None:
    assert CATEGORY.labels(after(NewEvent("task_created", {"project": "crm"}))) == ("pending", "crm")
    assert CATEGORY.labels(after("task_started")) == ("processing", None)


# ------------------------------------------------------------------------------------------------------- the vocabulary


def test_every_type_has_a_message_and_a_meaning() -> None:
    assert set(CHANGES) == TYPES == set(MESSAGES)
    assert set(ALIASES.values()) <= TYPES
    assert all(check(type_, {"message": empty})["message"] for type_ in TYPES for empty in (None, ""))


def test_the_vocabulary_completes_and_leaves_the_callers_data_alone() -> None:
    data: dict[str, Any] = {"input": {"size": "Medium"}}
    assert check("task_created", data)["type"] == "task"
    assert data == {"input": {"size": "Medium"}}
    assert check("task_failed", {"message": "Checkout failed"})["error"] == "Checkout failed"
    assert check("custom", data) is data


@pytest.mark.parametrize(
    ("type_", "data", "pointer"),
    [
        ("task_created", {"type": 5}, "/type"),
        ("task_created", {"type": "x" * 101}, "/type"),
        ("task_created", {"steps": "a"}, "/steps"),
        ("task_created", {"steps": ["a", 1]}, "/steps"),
        ("task_created", {"steps": ["a"] * 1001}, "/steps"),
        ("task_started", {"worker": 1}, "/worker"),
        ("task_progress", {"message": 5}, "/message"),
        ("task_progress", {"icon": "x" * 17}, "/icon"),
        ("task_completed", {"result": [1]}, "/result"),
        ("task_failed", {"error": {"a": 1}}, "/error"),
        ("task_reset", {"reason": 1}, "/reason"),
    ],
)
def test_what_is_broken_is_refused_by_its_field(type_: str, data: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        check(type_, data)
    assert caught.value.pointer == pointer


# ----------------------------------------------------------------------------------------------------------- properties

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
ALL_NAMES = ("type", "message", "worker", "icon", "result", "error", "reason", "steps", "project", "projectId")
NAMES = st.sampled_from(ALL_NAMES)


@given(
    st.lists(
        st.tuples(st.sampled_from([*sorted(TYPES), "note"]), st.dictionaries(NAMES, ANY_JSON, max_size=4)), max_size=8
    )
)
def test_the_fold_survives_whatever_some_other_program_wrote(log: list[tuple[str, Any]]) -> None:
    before = TaskRun()
    for n in range(len(log) + 1):
        at = fold(written_in_sql(log[:n]))
        assert 0 <= percent(at.state) <= 100
        assert (percent(at.state) == 100) == (at.state.status == "completed")
        assert before.status not in FINAL or at.state.status == before.status
        orjson.dumps([view("1", at), old_view("1", at), *CATEGORY.labels(at.state)])
        before = at.state


@pytest.mark.parametrize("type_", [*sorted(TYPES), "custom"])
def test_text_that_is_a_thousand_levels_deep_does_not_break_the_fold(type_: str) -> None:
    deep = b"[" * 1000 + b"]" * 1000
    json = b"{" + b", ".join(b'"%b": %b' % (name.encode(), deep) for name in ALL_NAMES) + b"}"
    at = fold([Event(ABC_123, 1, START, type_, json, BEGIN)])
    orjson.dumps([view("1", at), old_view("1", at), *CATEGORY.labels(at.state)])
    assert at.state.events == 1


@pytest.mark.parametrize("depth", [10, 230, 254, 900])
def test_a_result_that_is_nested_too_deeply_does_not_break_the_answer(depth: int) -> None:
    deep = b'{"result": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    at = fold([Event(ABC_123, 1, START, "task_completed", deep, BEGIN)])
    orjson.dumps({"runs": [old_view("1", at), view("1", at)]})
    assert at.state.status == "completed"
    assert ("a" in at.state.result_data) == (depth <= 230)
