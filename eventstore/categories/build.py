"""A build: request -> plan -> tasks -> build -> deploy, or one wrapped command. Its state is this fold, and nothing
else.

Pure. Theory of the bar: each phase owns a band (planning 0-10, tasks 10-70, preparing 70-80, deploying 80-99, done
100), tasks move it by half a share when they start and by the other half when they end, and it never goes back. 100
means completed and completed means 100. The source documents also print other numbers; ``legacy`` keeps those (X09).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from eventstore.categories import build_vocabulary as vocabulary
from eventstore.category import Category
from eventstore.event import Event
from eventstore.fold import At, Fold
from eventstore.text import iso_millis

MOST_TASKS = 100_000
MOST_UNPLANNED = 1_000
MOST_SECONDS = 10_000_000
FINAL = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Task:
    """One step of the plan. status: pending, running, completed, failed. estimate and times: seconds, UTC."""

    id: str
    name: str
    description: str = ""
    status: str = "pending"
    estimate: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    files: tuple[str, ...] = ()
    spec: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """Everything that is known of a build.

    status    unknown, queued, planning, executing, deploying, completed, failed, cancelled.
    stage     how far the work went: the type of the last event that moved it on (what `pipeline.flow` decides by). It
              never goes back to an earlier phase, whatever a worker that lost its job may still say.
    progress  0..100, never falls. legacy: the same on the old documents' scale.
    request   the data of build_queued or run_started: what was asked for.
    """

    status: str = "unknown"
    stage: str = ""
    progress: int = 0
    legacy: int = 0
    message: str = ""
    request: Mapping[str, Any] | None = None
    tasks: tuple[Task, ...] = ()
    task_count: int = 0
    preview_url: str | None = None
    error: str | None = None
    events: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    updated_at: datetime | None = None


Change = Callable[[Build, Event, Mapping[str, Any]], Build]


def _at_least(state: Build, progress: float) -> Build:
    return replace(state, progress=max(state.progress, min(99, int(progress))))


def _number(data: Mapping[str, Any], name: str, high: float) -> float:
    """A number from 0 to ``high``, 0 for anything else: not every door checks what comes in; a fold never raises."""
    value = data.get(name)
    return min(max(value, 0), high) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def _fail(state: Build, event: Event, error: object) -> Build:
    return replace(state, status="failed", error=str(error), ended_at=event.at)


def _with_plan(state: Build, data: Mapping[str, Any]) -> Build:
    plan = data.get("plan")
    listed = plan.get("tasks") if isinstance(plan, Mapping) else None
    if not isinstance(listed, list):
        return replace(state, task_count=int(_number(data, "taskCount", MOST_TASKS)))
    known = {task.id: task for task in state.tasks}
    tasks = tuple(
        replace(
            known.get(str(raw.get("id")), Task(str(raw.get("id")), "")),
            name=str(raw.get("name") or raw.get("id")),
            description=str(raw.get("description") or ""),
            estimate=_number(raw, "estimatedDuration", MOST_SECONDS) if "estimatedDuration" in raw else None,
            spec=raw,
        )
        for raw in listed
        if isinstance(raw, Mapping)
    )
    return replace(state, tasks=tasks, task_count=len(tasks))


def _find(state: Build, data: Mapping[str, Any], wanted: str) -> int | None:
    """The task an event speaks of: by id, by name, else the first that is in the ``wanted`` status."""
    for key, value in (("id", data.get("taskId")), ("name", data.get("taskName"))):
        if value is not None:
            return next((i for i, task in enumerate(state.tasks) if getattr(task, key) == value), None)
    return next((i for i, task in enumerate(state.tasks) if task.status == wanted), None)


def _set_task(state: Build, event: Event, data: Mapping[str, Any], wanted: str, **changes: Any) -> Build:
    index = _find(state, data, wanted)
    if index is None and len(state.tasks) >= MOST_UNPLANNED:
        return state  # every task event looks at every task: an endless list would make each event dearer
    if index is None:  # a plan that told only the count, or a task outside the plan
        name = str(data.get("taskName") or data.get("taskId") or f"Task {len(state.tasks) + 1}")
        tasks = (*state.tasks, replace(Task(str(data.get("taskId") or name), name), **changes))
    else:
        tasks = (*state.tasks[:index], replace(state.tasks[index], **changes), *state.tasks[index + 1 :])
    state = replace(state, tasks=tasks, status="executing" if state.status != "deploying" else state.status)
    done = sum(task.status == "completed" for task in tasks)
    running = sum(task.status == "running" for task in tasks)
    return _at_least(state, 10 + 60 * (done + running / 2) / max(state.task_count, len(tasks)))


def _build_queued(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return replace(state, status="queued", request=data)


def _plan_started(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(replace(state, status="planning", request=state.request or data), 5)


def _plan_generated(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(_with_plan(replace(state, status="planning"), data), 10)


def _plan_updated(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _with_plan(state, data)


def _task_started(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _set_task(state, event, data, "pending", status="running", started_at=event.at, ended_at=None, error=None)


def _task_completed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    details = data.get("details")
    named = details.get("filesCreated") if isinstance(details, Mapping) else None
    files = tuple(str(name) for name in named) if isinstance(named, list) else ()
    return _set_task(state, event, data, "running", status="completed", ended_at=event.at, files=files)


def _task_failed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    error = str(data.get("error") or "The task failed")
    soft = data.get("severity") == "soft"
    status = "pending" if soft else "failed"
    state = _set_task(state, event, data, "running", status=status, ended_at=event.at, error=error)
    return state if soft else _fail(state, event, error)


def _task_reset(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _set_task(state, event, data, "running", status="pending", started_at=None)


def _deploy_started(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(replace(state, status="deploying"), 70)


def _build_started(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(replace(state, status="deploying"), 75)


def _build_progress(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    if data.get("severity") == "fatal":
        return _fail(state, event, data.get("message"))
    return _at_least(state, 75)


def _build_completed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(replace(state, status="deploying"), 80)


def _deploy_progress(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(replace(state, status="deploying"), 80 + 19 * _number(data, "progress", 100) / 100)


def _deploy_completed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    url = data.get("previewUrl")
    if not url:  # only reachable through a log that something else wrote: never completed without a preview
        return state
    return replace(state, status="completed", progress=100, preview_url=str(url), ended_at=event.at)


def _failed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _fail(state, event, data.get("error") or data.get("message"))


def _error(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _fail(state, event, data.get("message")) if data.get("severity") == "fatal" else state


def _run_started(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return replace(state, status="executing", request=data)


def _run_output(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return _at_least(state, _number(data, "progress", 100))


def _run_completed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return replace(state, status="completed", progress=100, ended_at=event.at)


def _run_cancelled(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    return replace(state, status="cancelled", ended_at=event.at)


CHANGES: Mapping[str, Change] = {
    "build_queued": _build_queued,
    "plan_started": _plan_started,
    "plan_generated": _plan_generated,
    "plan_updated": _plan_updated,
    "task_started": _task_started,
    "task_completed": _task_completed,
    "task_failed": _task_failed,
    "task_reset": _task_reset,
    "deploy_started": _deploy_started,
    "build_started": _build_started,
    "build_progress": _build_progress,
    "build_completed": _build_completed,
    "build_failed": _failed,
    "deploy_progress": _deploy_progress,
    "deploy_completed": _deploy_completed,
    "deploy_failed": _failed,
    "error": _error,
    "run_started": _run_started,
    "run_output": _run_output,
    "run_completed": _run_completed,
    "run_failed": _failed,
    "run_cancelled": _run_cancelled,
}
"""What each event type does to the state. A type that is not here (status, deploy_log, anything new) only speaks."""


PHASES: Mapping[str, int] = {
    "build_queued": 1,
    "plan_started": 1,
    "run_started": 1,
    "plan_generated": 2,
    "plan_updated": 2,
    "task_started": 2,
    "task_completed": 2,
    "task_failed": 2,
    "task_reset": 2,
    "run_output": 2,
    "deploy_started": 3,
    "build_started": 3,
    "build_progress": 3,
    "build_completed": 4,
    "deploy_progress": 4,
    "deploy_completed": 5,
    "build_failed": 5,
    "deploy_failed": 5,
    "run_completed": 5,
    "run_failed": 5,
    "run_cancelled": 5,
}
"""Which phase an event belongs to: planning, doing, building, deploying, over. What is not here belongs to none."""


def _stage(state: Build, type_: str) -> str:
    return type_ if PHASES.get(type_, 0) >= PHASES.get(state.stage, 0) else state.stage


def _legacy(state: Build, event: Event, status: str) -> int:
    """The old documents' scale: ten a milestone up to 70, 80 from the deployment on, 100 at the end."""
    if status == "completed":
        return 100
    if status == "deploying":
        return max(state.legacy, 80)
    counts = event.type in {"plan_started", "plan_generated", "task_started", "task_completed"}
    return min(70, state.legacy + 10) if counts and state.legacy < 80 else state.legacy


def evolve(state: Build, event: Event) -> Build:
    """One more event. After the end nothing changes any more but the count and the time."""
    seen = replace(
        state,
        events=state.events + 1,
        started_at=state.started_at or event.at,
        updated_at=event.at,
    )
    if state.status in FINAL:
        return seen
    change = CHANGES.get(event.type)
    try:
        data = event.data
    except orjson.JSONDecodeError:  # Postgres takes numbers and depths that we cannot read, if SQL writes them
        data = {}
    message = str(data.get("message") or "")
    after = replace(seen, message=message or state.message)
    if change is not None:
        after = replace(change(after, event, data), stage=_stage(state, event.type))
    return replace(after, legacy=_legacy(state, event, after.status))


def is_final(state: Build) -> bool:
    """Completed, failed or cancelled: nothing more is expected."""
    return state.status in FINAL


OLD_STATUS: Mapping[str, str] = {"queued": "unknown", "cancelled": "failed"}
"""States that the old documents do not know, in their words (X11)."""


def view(id_: str, at: At[Build]) -> dict[str, Any]:
    """The answer of ``GET /v1/runs/build-{id}``: the whole state."""
    build = at.state
    return {
        "id": f"build-{id_}",
        "buildId": id_,
        "kind": "build",
        "name": _name(id_, build),
        "status": build.status,
        "progress": build.progress,
        "message": build.message,
        "previewUrl": build.preview_url,
        "error": build.error,
        "steps": [_step(task) for task in build.tasks],
        "eventCount": build.events,
        "lastEventId": at.version,
        "isTerminal": is_final(build),
        "startedAt": iso_millis(build.started_at),
        "endedAt": iso_millis(build.ended_at),
        "lastUpdate": iso_millis(build.updated_at),
    }


def old_view(id_: str, at: At[Build], *, legacy: bool = False) -> dict[str, Any]:
    """The answer of ``GET /api/builds/{id}/status``: the old documents' fields, and the cursor they forgot (N-02)."""
    build = at.state
    return {
        "buildId": id_,
        "status": OLD_STATUS.get(build.status, build.status),
        "progress": build.legacy if legacy else build.progress,
        "previewUrl": build.preview_url,
        "error": build.error or ("Cancelled" if build.status == "cancelled" else None),
        "eventCount": build.events,
        "lastUpdate": iso_millis(build.updated_at),
        "lastEventId": at.version,
    }


def _name(id_: str, build: Build) -> str:
    request = build.request or {}
    return str(request.get("name") or request.get("prompt") or request.get("command") or id_)[:200]


def _step(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "description": task.description,
        "status": task.status,
        "estimatedDuration": task.estimate,
        "startedAt": iso_millis(task.started_at),
        "endedAt": iso_millis(task.ended_at),
        "error": task.error,
        "files": list(task.files),
    }


CATEGORY: Category[Build] = Category(
    name="build",
    fold=Fold(Build(), evolve),
    aliases=vocabulary.ALIASES,
    check=vocabulary.check,
    is_final=is_final,
    view=view,
)
