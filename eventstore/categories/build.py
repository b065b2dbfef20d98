"""A build: request -> plan -> tasks -> build -> deploy, or one wrapped command. Its state is this fold, and nothing
else.

Pure. Theory of the bar: each phase owns a band (planning 0-10, tasks 10-70, preparing 70-80, deploying 80-99, done
100), tasks move it by half a share when they start and by the other half when they end, and it never goes back. 100
means completed and completed means 100. The source documents also print other numbers; ``legacy`` keeps those (X09).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from msgspec.structs import replace

from eventstore.categories import build_vocabulary as vocabulary
from eventstore.categories.build_state import FINAL, ORDER, Build, Task
from eventstore.category import Category, Labels, project_of
from eventstore.event import Event
from eventstore.fold import At, Fold
from eventstore.text import iso_millis

__all__ = ["CATEGORY", "CHANGES", "FINAL", "ORDER", "Build", "Task", "evolve", "is_final", "labels", "old_view", "view"]

MOST_TASKS = 100_000
MOST_UNPLANNED = 1_000
MOST_SECONDS = 10_000_000

Change = Callable[[Build, Event, Mapping[str, Any]], Build]


def _at_least(state: Build, progress: float) -> Build:
    reached = min(99, int(progress))
    return replace(state, progress=reached) if reached > state.progress else state


def _number(data: Mapping[str, Any], name: str, high: float) -> float:
    """A number from 0 to ``high``, 0 for anything else: not every door checks what comes in; a fold never raises."""
    value = data.get(name)
    return min(max(value, 0), high) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def _text(value: object) -> str:
    """Any value as text, "" for none: what was nested a thousand levels deep has no text, and a fold never raises."""
    try:
        return str(value or "")
    except RecursionError:
        return "..."


def _fail(state: Build, event: Event, error: object) -> Build:
    return replace(state, status="failed", error=_text(error) or "No reason was given", ended_at=event.at)


def _with_plan(state: Build, data: Mapping[str, Any]) -> Build:
    plan = data.get("plan")
    listed = plan.get("tasks") if isinstance(plan, Mapping) else None
    if not isinstance(listed, list):
        return replace(state, task_count=int(_number(data, "taskCount", MOST_TASKS)))
    known = {task.id: task for task in state.tasks}
    tasks = tuple(
        replace(
            known.get(id_ := _text(raw.get("id")), Task(id_, "")),
            name=_text(raw.get("name")) or id_,
            description=_text(raw.get("description")),
            estimate=_number(raw, "estimatedDuration", MOST_SECONDS) if "estimatedDuration" in raw else None,
            spec=raw,
        )
        for raw in listed
        if isinstance(raw, Mapping)
    )
    done, running = (sum(task.status == status for task in tasks) for status in ("completed", "running"))
    return replace(state, tasks=tasks, task_count=len(tasks), done=done, running=running)


def _find(state: Build, data: Mapping[str, Any], wanted: str) -> int | None:
    """The task an event speaks of: by id, by name, else the first that is in the ``wanted`` status."""
    id_, name = data.get("taskId"), data.get("taskName")
    for index, task in enumerate(state.tasks):  # a bare loop: it is what a task event costs
        if task.id == id_ if id_ is not None else task.name == name if name is not None else task.status == wanted:
            return index
    return None


def _set_task(state: Build, event: Event, data: Mapping[str, Any], wanted: str, **changes: Any) -> Build:
    index = _find(state, data, wanted)
    if index is None and len(state.tasks) >= MOST_UNPLANNED:
        return state  # every task event looks at every task: an endless list would make each event dearer
    if index is None:  # a plan that told only the count, or a task outside the plan
        id_ = _text(data.get("taskId"))
        name = _text(data.get("taskName")) or id_ or f"Task {len(state.tasks) + 1}"
        before, task = "", replace(Task(id_ or name, name), **changes)
        tasks = (*state.tasks, task)
    else:
        before, task = state.tasks[index].status, replace(state.tasks[index], **changes)
        tasks = (*state.tasks[:index], task, *state.tasks[index + 1 :])
    done = state.done + (task.status == "completed") - (before == "completed")
    running = state.running + (task.status == "running") - (before == "running")
    state = replace(state, tasks=tasks, status="executing", done=done, running=running)
    return _at_least(state, 10 + 60 * (done + running / 2) / max(state.task_count, len(tasks)))


def _build_queued(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    begun = ORDER.get(state.status, 0) > ORDER["planning"]  # a stray one comes late: what is being done was asked for
    return replace(state, status="queued", request=(state.request or data) if begun else data)


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
    files = tuple(_text(name) for name in named) if isinstance(named, list) else ()
    return _set_task(state, event, data, "running", status="completed", ended_at=event.at, files=files)


def _task_failed(state: Build, event: Event, data: Mapping[str, Any]) -> Build:
    error = _text(data.get("error")) or "The task failed"
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
    return replace(state, status="completed", progress=100, preview_url=_text(url), ended_at=event.at)


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


CHANGES: Mapping[str, tuple[int, Change]] = {
    "build_queued": (1, _build_queued),
    "plan_started": (1, _plan_started),
    "plan_generated": (2, _plan_generated),
    "plan_updated": (2, _plan_updated),
    "task_started": (2, _task_started),
    "task_completed": (2, _task_completed),
    "task_failed": (2, _task_failed),
    "task_reset": (2, _task_reset),
    "deploy_started": (3, _deploy_started),
    "build_started": (3, _build_started),
    "build_progress": (3, _build_progress),
    "build_completed": (4, _build_completed),
    "build_failed": (5, _failed),
    "deploy_progress": (4, _deploy_progress),
    "deploy_completed": (5, _deploy_completed),
    "deploy_failed": (5, _failed),
    "error": (0, _error),
    "run_started": (1, _run_started),
    "run_output": (2, _run_output),
    "run_completed": (5, _run_completed),
    "run_failed": (5, _failed),
    "run_cancelled": (5, _run_cancelled),
}
"""What each event type does to the state, and which phase it belongs to: planning, doing, building, deploying, over;
0 = to none. A type that is not here (status, deploy_log, anything new) only speaks."""


def _stage(state: Build, type_: str) -> str:
    return type_ if _phase(type_) >= _phase(state.stage) else state.stage


def _phase(type_: str) -> int:
    return CHANGES[type_][0] if type_ in CHANGES else 0


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
    if state.status in FINAL:
        return replace(state, events=state.events + 1, updated_at=event.at)
    try:
        data = event.data
    except orjson.JSONDecodeError:  # Postgres takes numbers and depths that we cannot read, if SQL writes them
        data = {}
    seen = replace(
        state,
        events=state.events + 1,
        started_at=state.started_at or event.at,
        updated_at=event.at,
        message=_text(data.get("message")) or state.message,
        log_url=_log_url(event, data) or state.log_url,
    )
    if event.type not in CHANGES:
        return seen
    after = CHANGES[event.type][1](seen, event, data)
    went_back = ORDER.get(after.status, len(ORDER)) < ORDER.get(state.status, 0)
    status = state.status if went_back else after.status
    stage, legacy = _stage(state, event.type), _legacy(state, event, status)
    moved = (status, stage, legacy) != (after.status, after.stage, after.legacy)
    return replace(after, status=status, stage=stage, legacy=legacy) if moved else after


def _log_url(event: Event, data: Mapping[str, Any]) -> str | None:
    url = data.get("buildLogUrl")
    if not event.type.startswith("build_") or not isinstance(url, str):
        return None
    return url if url.startswith(("https://", "http://", "/")) else None  # it becomes a link


def is_final(state: Build) -> bool:
    """Completed, failed or cancelled: nothing more is expected."""
    return state.status in FINAL


def labels(state: Build) -> Labels:
    """What lists of builds are filtered by."""
    return Labels(state.status, project_of(state.request or {}))


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
    return _text(request.get("name") or request.get("prompt") or request.get("command") or id_)[:200]


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
    version=1,
    state=Build,
    fold=Fold(Build(), evolve),
    aliases=vocabulary.ALIASES,
    check=vocabulary.check,
    is_final=is_final,
    labels=labels,
    statuses=(*ORDER, "completed", "failed", "cancelled"),
    view=view,
)
