"""next_jobs: from whatever a build has reached, the line goes on to the end, and asks for nothing twice."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.admit import admit
from eventstore.categories.build import CATEGORY, Build
from eventstore.event import START, Event, NewEvent, StreamId
from eventstore.fold import At
from pipeline.flow import Job, attempts, next_jobs

pytestmark = pytest.mark.pure

STREAM = StreamId("build", "27")
NOW = datetime(2025, 7, 22, tzinfo=UTC)
Said = tuple[str, dict[str, Any]]

QUEUED: Said = ("build_queued", {"prompt": "todo app"})
PLAN: Said = (
    "plan_generated",
    {"plan": {"tasks": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}, {"id": "c", "name": "C", "needs": ["a"]}]}},
)


def fold(said: Iterable[Said], since: At[Build] | None = None) -> At[Build]:
    start = since or At(Build(), 0)
    drafts = [draft for type_, data in said for draft in admit(STREAM, [NewEvent(type_, data)])]
    events = [
        Event(STREAM, version, START, draft.type, draft.json, NOW)
        for version, draft in enumerate(drafts, start.version + 1)
    ]
    return CATEGORY.fold(events, since=start)


def keys(*said: Said) -> list[str]:
    return [job.key.removeprefix("build-27/") for job in next_jobs(fold(said).state, "27")]


def task(type_: str, name: str) -> Said:
    return (type_, {"taskId": name})


@pytest.mark.req("S2-85")
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], []),
        ([QUEUED], ["plan"]),
        ([QUEUED, ("plan_started", {})], ["plan"]),
        ([QUEUED, PLAN], ["task/a", "task/b"]),
        ([QUEUED, PLAN, task("task_started", "a")], ["task/a", "task/b"]),
        ([QUEUED, PLAN, task("task_completed", "a")], ["task/b", "task/c"]),
        ([QUEUED, PLAN, task("task_started", "a"), task("task_reset", "a")], ["task/a", "task/b"]),
        ([QUEUED, PLAN, *(task("task_completed", name) for name in "abc")], ["build"]),
        ([QUEUED, PLAN, *(task("task_completed", name) for name in "abc"), ("deploy_started", {})], ["build"]),
        ([QUEUED, ("build_completed", {})], ["deploy"]),
        ([QUEUED, ("deploy_progress", {})], ["deploy"]),
        ([QUEUED, ("deploy_completed", {"previewUrl": "https://x.test/"})], []),
        ([QUEUED, PLAN, ("task_failed", {"taskId": "a"})], []),
        ([QUEUED, ("build_failed", {})], []),
        ([QUEUED, ("error", {"severity": "soft"})], ["plan"]),
        ([QUEUED, ("error", {"severity": "fatal"})], []),
    ],
)
def test_each_stage_asks_for_what_comes_next(said: list[Said], expected: list[str]) -> None:
    assert keys(*said) == expected


def test_what_a_lost_worker_still_says_does_not_turn_the_line_back() -> None:
    late: list[Said] = [("build_progress", {"stage": "compile"}), ("build_started", {}), ("plan_started", {})]
    assert keys(QUEUED, PLAN, ("build_completed", {}), *late) == ["deploy"]


def test_a_build_that_only_reports_is_not_driven() -> None:
    """Somebody else's pipeline posts its events; a plan that only counts tells us of nothing that we could do."""
    assert keys(("plan_started", {}), ("plan_generated", {"taskCount": 3})) == []


def test_a_key_names_the_job_and_only_it() -> None:
    jobs = [Job(kind, build, step) for kind in ("plan", "task") for build in ("1", "1/task") for step in ("", "x")]
    assert len({job.key for job in jobs}) == len(jobs)


def test_attempts_are_counted_per_step() -> None:
    said: list[Said] = [
        ("task_started", {"taskId": "a", "attempt": 1}),
        ("task_started", {"taskId": "b", "attempt": 3}),
        ("task_started", {"taskId": "a", "attempt": 2}),
        ("task_started", {"taskId": "a"}),
        ("build_started", {"attempt": "x"}),
    ]
    events = [
        Event(STREAM, version, START, type_, admit(STREAM, [NewEvent(type_, data)])[0].json, NOW)
        for version, (type_, data) in enumerate(said, 1)
    ]
    assert attempts(events, Job("task", "27", "a")) == 2
    assert attempts(events, Job("task", "27", "b")) == 3
    assert attempts(events, Job("build", "27")) == 0


@st.composite
def plans(draw: st.DrawFn) -> list[dict[str, Any]]:
    count = draw(st.integers(1, 6))
    return [
        {
            "id": f"t{n}",
            "name": f"Task {n}",
            "needs": draw(st.lists(st.sampled_from([f"t{m}" for m in range(n)]), unique=True)) if n else [],
        }
        for n in range(count)
    ]


BEGINS = {"plan": "plan_started", "task": "task_started", "build": "build_started", "deploy": "deploy_progress"}


@given(plan=plans(), data=st.data())
def test_from_any_point_the_line_runs_to_the_end(plan: list[dict[str, Any]], data: st.DataObject) -> None:
    """Jobs are done in any order, cut off after they began, or after they said something; the build is completed."""
    ends: dict[str, Said] = {
        "plan": ("plan_generated", {"plan": {"tasks": plan}}),
        "build": ("build_completed", {}),
        "deploy": ("deploy_completed", {"previewUrl": "https://x.test/"}),
    }
    at = fold([QUEUED])
    done: list[Job] = []
    cuts = 0
    for _ in range(200):
        jobs = next_jobs(at.state, "27")
        if not jobs:
            break
        assert len(set(jobs)) == len(jobs)
        job = data.draw(st.sampled_from(jobs))
        about = {"taskId": job.step} if job.kind == "task" else {}
        at = fold([(BEGINS[job.kind], about)], at)
        if cuts < 8 and data.draw(st.booleans()):
            cuts += 1
            if job.kind == "task" and data.draw(st.booleans()):
                at = fold([("task_reset", about)], at)
            assert job in next_jobs(at.state, "27")
            continue
        at = fold([("task_completed", about) if job.kind == "task" else ends[job.kind]], at)
        assert job not in next_jobs(at.state, "27")
        done.append(job)
    assert at.state.status == "completed"
    assert len(set(done)) == len(done) == len(plan) + 3
    for step in plan:
        for needed in step["needs"]:
            assert done.index(Job("task", "27", needed)) < done.index(Job("task", "27", step["id"]))
