"""A task: one job of one worker that says, as it goes, what it is doing. Its state is this fold, and nothing else.

Pure. Theory: a message says what begins. So a step lasts from its message to the next one, the last message is what
happens now, and how long each step took needs no event of its own. What is still to come is known only where the
creator told it (``steps`` of task_created); the bar then stands at (done + half of what runs) / all (X41), else at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson
from msgspec.structs import replace

from eventstore.categories import task_vocabulary as vocabulary
from eventstore.category import Category, Labels, project_of
from eventstore.event import Event
from eventstore.fold import At, Fold
from eventstore.text import iso_millis

MOST_MESSAGES = 1_000
MOST_TEXT = 1_000
ROOM = 16
"""Levels of nesting that views and snapshots put around a result."""
FINAL = frozenset({"completed", "failed"})


Said = Mapping[str, str]
"""A message of the list: ``message``, ``timestamp`` (RFC 3339, UTC, six digits) and perhaps ``icon``."""

NOTHING_SAID: Mapping[str, Any] = {"progress": []}


class TaskRun(msgspec.Struct, frozen=True, gc=False):
    """Everything that is known of a task.

    status    pending, processing, completed, failed.
    result_data  what the task gave, and under ``progress`` what was said at each start, step and end: the newest 1,000
              messages, each cut to 1,000 characters; the log has the rest. The list is written with every snapshot and
              read with every answer: ten times as many cost 0.8 MB and 13 ms each time. In the snapshot it stands as
              the documents show it, so that SQL finds it without putting it together.
    steps     the messages that are to be expected of one attempt, if the creator told them.
    said      how many messages this attempt has said; a failure is not a step.
    """

    type: str = vocabulary.DEFAULT_TYPE
    status: str = "pending"
    project: str | None = None
    worker: str | None = None
    message: str = ""
    result_data: Mapping[str, Any] = msgspec.field(default_factory=lambda: NOTHING_SAID)
    steps: tuple[str, ...] = ()
    said: int = 0
    error: str | None = None
    events: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None


Change = Callable[[TaskRun, Event, Mapping[str, Any]], TaskRun]


def iso_micros(at: datetime | None) -> str | None:
    """2025-11-23T10:00:00.123456Z: RFC 3339 in UTC with microseconds, the times of /tasks (X08)."""
    return None if at is None else _micros(at)


def _micros(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _text(data: Mapping[str, Any], name: str, most: int = MOST_TEXT) -> str | None:
    """A field that is text and not empty: not every door checks what comes in; a fold never raises."""
    value = data.get(name)
    return value[:most] if isinstance(value, str) and value else None


def _say(state: TaskRun, event: Event, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """``result_data`` with what this event says (``state.message``) at the end of its list."""
    said = {"message": state.message, "timestamp": _micros(event.at)}
    icon = _text(data, "icon", vocabulary.MOST_ICON)
    if icon is not None:
        said["icon"] = icon
    return {"progress": [*state.result_data["progress"][1 - MOST_MESSAGES :], said]}


def _created(state: TaskRun, event: Event, data: Mapping[str, Any]) -> TaskRun:
    told = data.get("steps")
    listed = told[: vocabulary.MOST_STEPS] if isinstance(told, list) else []
    steps = tuple(step[:MOST_TEXT] for step in listed if isinstance(step, str))
    type_ = _text(data, "type", vocabulary.MOST_TYPE) or state.type
    return replace(state, type=type_, project=project_of(data), steps=steps, created_at=event.at)


def _started(state: TaskRun, event: Event, data: Mapping[str, Any]) -> TaskRun:
    return replace(_progress(state, event, data), worker=_text(data, "worker") or state.worker)


def _progress(state: TaskRun, event: Event, data: Mapping[str, Any]) -> TaskRun:
    """Whoever says that it works has begun, even if its task_started was lost."""
    return replace(
        state,
        status="processing",
        started_at=state.started_at or event.at,
        result_data=_say(state, event, data),
        said=state.said + 1,
    )


def _completed(state: TaskRun, event: Event, data: Mapping[str, Any]) -> TaskRun:
    done = _progress(state, event, data)
    result = data.get("result")
    if isinstance(result, Mapping) and _fits(result):
        done = replace(done, result_data={**result, **done.result_data})
    return replace(done, status="completed", completed_at=event.at)


def _fits(result: Mapping[str, Any]) -> bool:
    """Can it stand inside an answer? What is nested too deeply stays in the log only: it would break every page."""
    value: Any = result
    for _ in range(ROOM):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def _failed(state: TaskRun, event: Event, data: Mapping[str, Any]) -> TaskRun:
    error = _text(data, "error", MOST_TEXT * 10) or state.message
    return replace(state, status="failed", completed_at=event.at, error=error, result_data=_say(state, event, data))


def _reset(state: TaskRun, event: Event, data: Mapping[str, Any]) -> TaskRun:
    """Back to the beginning; what was said stays in the list."""
    return replace(state, status="pending", worker=None, started_at=None, said=0)


CHANGES: Mapping[str, Change] = {
    "task_created": _created,
    "task_started": _started,
    "task_progress": _progress,
    "task_completed": _completed,
    "task_failed": _failed,
    "task_reset": _reset,
}
"""What each event type does to the state. A type that is not here only speaks."""


def evolve(state: TaskRun, event: Event) -> TaskRun:
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
        created_at=state.created_at or event.at,
        updated_at=event.at,
        message=vocabulary.message_of(event.type, data)[:MOST_TEXT] or state.message,
    )
    change = CHANGES.get(event.type)
    return change(seen, event, data) if change is not None else seen


def is_final(state: TaskRun) -> bool:
    """Completed or failed: nothing more is expected."""
    return state.status in FINAL


def labels(state: TaskRun) -> Labels:
    """What lists of tasks are filtered by."""
    return Labels(state.status, state.project)


def percent(state: TaskRun) -> int:
    """0..100; 100 means completed. Falls only when the task is reset."""
    if state.status == "completed":
        return 100
    if not state.steps or not state.said:
        return 0
    return min(99, int(100 * (state.said - 0.5) / max(len(state.steps), state.said)))


def view(id_: str, at: At[TaskRun]) -> dict[str, Any]:
    """The answer of ``GET /v1/runs/task-{id}``: a run like every other, with the fields of a build's."""
    task = at.state
    return {
        "id": f"task-{id_}",
        "kind": "task",
        "type": task.type,
        "name": id_,
        "status": task.status,
        "progress": percent(task),
        "message": task.message,
        "worker": task.worker,
        "error": task.error,
        "steps": _steps(task),
        "eventCount": task.events,
        "lastEventId": at.version,
        "isTerminal": is_final(task),
        "startedAt": iso_millis(task.started_at),
        "endedAt": iso_millis(task.completed_at),
        "lastUpdate": iso_millis(task.updated_at),
    }


def old_view(id_: str, at: At[TaskRun]) -> dict[str, Any]:
    """The answer of ``GET /tasks/{id}``: the old document's fields, and the cursor it forgot."""
    task = at.state
    return {
        "task_id": id_,
        "type": task.type,
        "current_status": task.status,
        "result_data": task.result_data,
        "error_message": task.error,
        "created_at": iso_micros(task.created_at),
        "started_at": iso_micros(task.started_at),
        "completed_at": iso_micros(task.completed_at),
        "lastEventId": at.version,
    }


def _steps(task: TaskRun) -> list[dict[str, Any]]:
    """What this attempt said, each until the next began, and what is still to come."""
    progress: Sequence[Said] = task.result_data["progress"]
    end = len(progress) - (task.status == "failed")  # the last message then is the error, not a step
    said = progress[max(0, end - task.said) : end]
    ends: list[str | None] = [one["timestamp"] for one in said[1:]]
    now = "running" if task.status == "processing" else task.status
    steps = [
        _step(number, one["message"], "completed", one["timestamp"], until)
        for number, (one, until) in enumerate(zip(said, [*ends, iso_micros(task.completed_at)], strict=False), 1)
    ]
    if steps:
        steps[-1] |= {"status": now, "error": task.error}
    coming = task.steps[task.said :] if task.status != "completed" else ()
    return steps + [_step(number, name, "pending") for number, name in enumerate(coming, len(steps) + 1)]


def _step(number: int, name: str, status: str, begin: str | None = None, end: str | None = None) -> dict[str, Any]:
    """The fields of a step of a build: whoever shows the one shows the other."""
    return {
        "id": str(number),
        "name": name,
        "description": "",
        "status": status,
        "estimatedDuration": None,
        "startedAt": begin,
        "endedAt": end,
        "error": None,
        "files": [],
    }


CATEGORY: Category[TaskRun] = Category(
    name="task",
    version=1,
    state=TaskRun,
    fold=Fold(TaskRun(), evolve),
    aliases=vocabulary.ALIASES,
    check=vocabulary.check,
    is_final=is_final,
    labels=labels,
    statuses=("pending", "processing", "completed", "failed"),
    view=view,
)
