"""The state of a build: its status words, its bar, and that both come from the events alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import START, Event, NewEvent
from eventstore.categories.build import CATEGORY, FINAL, ORDER, Build, old_view
from eventstore.categories.build_vocabulary import TYPES
from tests.eventstore.logs import BEGIN, BUILD_27, F27, f27, recorded

pytestmark = pytest.mark.pure

fold = CATEGORY.fold
PREVIEW = {"previewUrl": "https://e05f45e2.sheenapps-preview.pages.dev"}


def states(events: list[NewEvent]) -> list[Build]:
    """The state after each event."""
    log = recorded(events)
    return [fold(log[: n + 1]).state for n in range(len(log))]


def after(*events: NewEvent | str) -> Build:
    made = [NewEvent(event) if isinstance(event, str) else event for event in events]
    return fold(recorded(made)).state


@pytest.mark.req("S1-42", "S1-43", "S0-23", "S0-24", "S0-25", "S0-26", "S0-27")
def test_build_27_runs_through_the_bands() -> None:
    run = states(f27())
    assert [state.progress for state in run] == [5, 10, 20, 30, 40, 50, 60, 70, 70, 75, 80, 100]
    assert [state.status for state in run] == ["planning"] * 2 + ["executing"] * 6 + ["deploying"] * 3 + ["completed"]


@pytest.mark.req("S1-42")
def test_build_27_keeps_the_old_documents_numbers_too() -> None:
    assert [state.legacy for state in states(f27())] == [10, 20, 30, 40, 50, 60, 70, 70, 80, 80, 80, 100]


@pytest.mark.req("S0-10", "S0-09", "S0-08")
def test_the_old_status_of_build_27_is_the_documents() -> None:
    assert old_view("27", fold(recorded(f27()))) == {
        "buildId": "27",
        "status": "completed",
        "progress": 100,
        "previewUrl": PREVIEW["previewUrl"],
        "error": None,
        "eventCount": 12,
        "lastUpdate": "2025-07-22T07:15:20.107Z",
        "lastEventId": 12,
    }


@pytest.mark.req("S1-44", "S1-41")
def test_build_27_took_ninety_seconds() -> None:
    state = after(*f27())
    assert state.started_at
    assert state.ended_at
    assert int((state.ended_at - state.started_at).total_seconds()) == 90
    assert [task.name for task in state.tasks] == [e["data"]["taskName"] for e in F27["events"][2:5]]
    assert {task.status for task in state.tasks} == {"completed"}


@pytest.mark.req("S0-17")
def test_a_build_nobody_has_heard_of_is_unknown() -> None:
    view = old_view("nope", fold([]))
    assert (view["status"], view["progress"], view["eventCount"], view["lastUpdate"]) == ("unknown", 0, 0, None)


@pytest.mark.req("S0-18", "S0-24")
def test_planning_lasts_until_the_first_task() -> None:
    assert after("plan_started").status == "planning"
    planned = after("plan_started", NewEvent("plan_generated", {"taskCount": 3}))
    assert (planned.status, planned.progress) == ("planning", 10)


@pytest.mark.req("S0-19", "S0-25")
@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_each_start_and_each_end_of_a_task_moves_the_bar_by_the_same_share(count: int) -> None:
    events = [NewEvent("plan_generated", {"taskCount": count})]
    for n in range(count):
        events += [NewEvent("task_started", {"taskId": str(n)}), NewEvent("task_completed", {"taskId": str(n)})]
    run = states(events)[1:]
    assert [state.progress for state in run] == [int(10 + 30 * (n + 1) / count) for n in range(2 * count)]
    assert {state.status for state in run} == {"executing"}


@pytest.mark.req("S0-20", "S0-26")
def test_preparing_to_deploy_lies_between_70_and_80() -> None:
    run = states(
        [NewEvent(type_) for type_ in ("deploy_started", "build_started", "build_progress", "build_completed")]
    )
    assert [state.status for state in run] == ["deploying"] * 4
    assert all(70 <= state.progress <= 80 for state in run)


@pytest.mark.req("S0-27")
def test_deploying_lies_between_80_and_99() -> None:
    run = states([NewEvent("deploy_progress", {"progress": share}) for share in (0, 50, 100)])
    assert [state.progress for state in run] == [80, 89, 99]


@pytest.mark.req("S0-21", "S0-28")
def test_completed_has_a_preview_and_only_completed_is_100() -> None:
    done = after("plan_started", NewEvent("deploy_completed", PREVIEW))
    assert (done.status, done.progress, done.preview_url) == ("completed", 100, PREVIEW["previewUrl"])


@pytest.mark.req("S0-22", "S2-25")
@pytest.mark.parametrize(
    "event",
    [
        NewEvent("task_failed", {"error": "boom"}),
        NewEvent("build_failed", {"error": "boom"}),
        NewEvent("deploy_failed", {"error": "boom"}),
        NewEvent("error", {"message": "boom"}),
        NewEvent("build_progress", {"message": "boom", "severity": "fatal"}),
        NewEvent("run_failed", {"error": "boom"}),
    ],
    ids=lambda event: event.type,
)
def test_it_fails_at_any_stage(event: NewEvent) -> None:
    state = after("plan_started", event)
    assert (state.status, state.error, state.progress < 100) == ("failed", "boom", True)


@pytest.mark.req("S2-25", "S4-20")
def test_a_soft_failure_and_a_reset_start_the_task_again() -> None:
    begun = [NewEvent("plan_generated", {"taskCount": 2}), NewEvent("task_started", {"taskId": "a"})]
    soft = after(*begun, NewEvent("task_failed", {"taskId": "a", "severity": "soft"}))
    assert (soft.status, soft.tasks[0].status, soft.progress) == ("executing", "pending", 25)
    reset = after(*begun, NewEvent("task_reset", {"taskId": "a"}), NewEvent("task_started", {"taskId": "a"}))
    assert (reset.tasks[0].status, len(reset.tasks)) == ("running", 1)


def test_after_the_end_only_the_count_and_the_time_move() -> None:
    state = after("plan_started", "run_cancelled", "task_started", NewEvent("deploy_completed", PREVIEW))
    assert (state.status, state.events, state.tasks) == ("cancelled", 4, ())
    assert old_view("1", fold(recorded([NewEvent("run_cancelled")])))["status"] == "failed"


@pytest.mark.req("S2-50")
def test_a_plan_may_grow_and_shrink_and_the_bar_never_goes_back() -> None:
    def plan(*names: str) -> dict[str, Any]:
        return {"plan": {"tasks": [{"id": name, "name": name.upper()} for name in names]}}

    run = states(
        [
            NewEvent("plan_generated", plan("a", "b")),
            NewEvent("task_started", {"taskId": "a"}),
            NewEvent("task_completed", {"taskId": "a", "details": {"filesCreated": ["a.html"]}}),
            NewEvent("plan_updated", plan("c", "a", "b", "d", "e")),
            NewEvent("plan_updated", plan("a")),
        ]
    )
    assert [state.progress for state in run] == [10, 25, 40, 40, 40]
    assert [task.id for task in run[3].tasks] == ["c", "a", "b", "d", "e"]
    assert [(task.status, task.files) for task in run[4].tasks] == [("completed", ("a.html",))]


def tasks_begun() -> list[NewEvent]:
    return [
        NewEvent("build_queued", {"prompt": "a page", "projectId": "crm"}),
        NewEvent("plan_generated", {"plan": {"tasks": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]}}),
        NewEvent("task_started", {"taskId": "a"}),
    ]


@pytest.mark.parametrize("stray", ["build_queued", "plan_started", "plan_generated", "run_started"])
@pytest.mark.parametrize("stage", ["task_started", "deploy_started", "build_progress", "deploy_progress"])
def test_a_stray_early_event_does_not_take_the_status_back(stray: str, stage: str) -> None:
    begun = [*tasks_begun(), NewEvent(stage, {"taskId": "a"})]
    before, late = states([*begun, NewEvent(stray, {"taskCount": 2})])[-2:]
    assert (late.status, late.progress) == (before.status, before.progress)


def test_a_second_request_does_not_replace_what_is_being_done() -> None:
    late = after(*tasks_begun(), NewEvent("build_queued", {"prompt": "another"}))
    assert late.request
    assert late.request["prompt"] == "a page"
    early = after("plan_started", NewEvent("build_queued", {"prompt": "a page"}))
    assert (early.status, (early.request or {})["prompt"]) == ("planning", "a page")


@pytest.mark.req("S2-21", "S2-49")
def test_the_link_to_the_whole_log_is_kept() -> None:
    url = "https://logs.example/27.txt?signature=1"
    assert after("build_started", NewEvent("build_progress", {"buildLogUrl": url}), "build_completed").log_url == url
    assert after(NewEvent("build_failed", {"buildLogUrl": url})).log_url == url


@pytest.mark.parametrize("url", ["javascript:alert(1)", "", 5, None, ["https://x.dev"]])
def test_what_is_no_link_is_no_link(url: Any) -> None:
    good = NewEvent("build_started", {"buildLogUrl": "/v1/runs/build-27/log"})
    assert after(good, NewEvent("build_progress", {"buildLogUrl": url})).log_url == "/v1/runs/build-27/log"
    assert after(NewEvent("task_started", {"buildLogUrl": "https://x.dev"})).log_url is None


@pytest.mark.parametrize(
    ("request_", "project"),
    [
        ({"projectId": "crm"}, "crm"),
        ({"project": "crm"}, "crm"),
        ({"projectId": "a", "project": "b"}, "a"),
        ({"projectId": "", "project": "b"}, "b"),
        ({"projectId": 5}, None),
        ({"project": "x" * 200}, "x" * 128),
        ({}, None),
    ],
)
def test_lists_know_the_status_and_the_project(request_: dict[str, Any], project: str | None) -> None:
    assert CATEGORY.labels(after(NewEvent("build_queued", request_))) == ("queued", project)
    assert CATEGORY.labels(Build()) == ("unknown", None)


def test_the_view_is_the_whole_state() -> None:
    view = CATEGORY.view("27", fold(recorded(f27())))
    assert view["id"] == "build-27"
    assert (view["status"], view["isTerminal"], view["lastEventId"]) == ("completed", True, 12)
    assert [step["status"] for step in view["steps"]] == ["completed"] * 3
    assert (view["startedAt"], view["endedAt"]) == ("2025-07-22T07:13:50.000Z", "2025-07-22T07:15:20.107Z")


SMALL = st.sampled_from(["a", "b", "c"])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "taskId": SMALL,
        "taskName": SMALL,
        "progress": st.integers(0, 100),
        "taskCount": st.integers(0, 9),
        "plan": st.builds(
            lambda names: {"tasks": [{"id": n, "name": n} for n in names]}, st.lists(SMALL, unique=True, max_size=3)
        ),
    },
)
LOGS = st.lists(
    st.builds(NewEvent, st.sampled_from(sorted(TYPES)), FIELDS.map(lambda data: data | PREVIEW)), max_size=25
)


@pytest.mark.req("S0-23", "S0-28", "K-09")
@given(LOGS)
def test_progress_never_goes_back_and_100_means_completed(events: list[NewEvent]) -> None:
    before = Build()
    for state in states(events):
        assert 0 <= before.progress <= state.progress <= 100
        assert before.legacy <= state.legacy <= 100
        assert (state.progress == 100) == (state.status == "completed")
        assert before.status not in FINAL or state.status == before.status
        assert state.status in FINAL or ORDER[before.status] <= ORDER[state.status]
        assert state.done == sum(task.status == "completed" for task in state.tasks)
        assert state.running == sum(task.status == "running" for task in state.tasks)
        before = state


@pytest.mark.parametrize("type_", [*sorted(TYPES), "custom"])
def test_text_that_is_a_thousand_levels_deep_does_not_break_the_fold(type_: str) -> None:
    deep = b"[" * 1000 + b"]" * 1000
    names = (b"message", b"error", b"taskName", b"previewUrl", b"buildLogUrl", b"prompt")
    json = b"{" + b", ".join(b'"%b": %b' % (name, deep) for name in names) + b"}"
    at = fold([Event(BUILD_27, 1, START, type_, json, BEGIN)])
    CATEGORY.view("27", at)
    assert at.state.events == 1


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SMALL, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "taskId",
        "taskName",
        "progress",
        "taskCount",
        "plan",
        "tasks",
        "severity",
        "error",
        "message",
        "details",
        "previewUrl",
    ]
)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(TYPES)), st.dictionaries(NAMES, ANY_JSON, max_size=4)), max_size=8),
    st.lists(ANY_JSON, max_size=2),
)
def test_the_fold_survives_whatever_some_other_program_wrote(log: list[tuple[str, Any]], tasks: list[Any]) -> None:
    """append_event() in SQL knows no vocabulary: an odd event must not break the build for ever."""
    import orjson

    drafts = [(type_, data | ({"plan": {"tasks": tasks}} if "plan" in data else {})) for type_, data in log]
    events = [
        Event(BUILD_27, version, (1, version), type_, orjson.dumps(data), BEGIN)  # type: ignore[arg-type]
        for version, (type_, data) in enumerate(drafts, 1)
    ]
    at = fold(events)
    assert 0 <= at.state.progress <= 100
    orjson.dumps([CATEGORY.view("27", at), old_view("27", at)])
