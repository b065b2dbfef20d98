"""Planner: what turns a prompt into a plan, and each task of the plan into files. Implementations in `planners/`.

The plan travels through the log (`plan_generated`), so `carry_out` may run in another process, on another day, than
`plan`: everything that it needs stands in the task's ``spec`` and in the brief.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eventstore.categories.build import Task
from eventstore.errors import Invalid
from eventstore.event import Data
from pipeline.workspace import Workspace

Report = Callable[[str, Data], Awaitable[None]]
"""(event type, data): says something about the work in the build's log while it goes on."""

TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Brief:
    """What was asked for: the build's id and the prompt."""

    build: str
    prompt: str


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task of a plan.

    estimated_duration  seconds. needs: the ids of tasks that come first. spec: what `carry_out` has to know, JSON-able
    and small, because it stands in the log.
    """

    id: str
    name: str
    description: str
    estimated_duration: float
    needs: tuple[str, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and in which order."""

    id: str
    name: str
    tasks: tuple[PlannedTask, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task left in the workspace: relative paths."""

    files_created: Sequence[str] = ()
    files_modified: Sequence[str] = ()


class Planner(Protocol):
    """Thinks first, works later. Both methods may be called again after a crash: they must bear it."""

    async def plan(self, brief: Brief, report: Report) -> Plan:
        """The plan for ``brief``."""
        ...

    async def carry_out(self, task: PlannedTask, brief: Brief, workspace: Workspace, report: Report) -> Outcome:
        """Do ``task``: leave its files in ``workspace``."""
        ...


def check(plan: Plan) -> None:
    """Raise Invalid unless the plan can be carried out: sound ids, needs that exist and do not run in a circle."""
    ids = [task.id for task in plan.tasks]
    if not ids:
        raise Invalid("the plan has no tasks", pointer="/plan/tasks")
    for task_id in ids:
        if not TASK_ID.fullmatch(task_id) or ids.count(task_id) > 1:
            raise Invalid(f"{task_id[:40]!r} cannot be the id of one task", pointer="/plan/tasks")
    waiting = {task.id: set(task.needs) for task in plan.tasks}
    while waiting:
        free = [task_id for task_id, needed in waiting.items() if not needed & waiting.keys()]
        unknown = [name for needed in waiting.values() for name in needed if name not in ids]
        if unknown or not free:
            raise Invalid(f"the tasks {sorted(unknown or waiting)} can never begin", pointer="/plan/tasks")
        for task_id in free:
            del waiting[task_id]


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as ``plan_generated`` carries it."""
    tasks = [
        {
            **task.spec,
            "id": task.id,
            "name": task.name,
            "description": task.description,
            "estimatedDuration": task.estimated_duration,
            **({"needs": list(task.needs)} if task.needs else {}),
        }
        for task in plan.tasks
    ]
    total = sum(task.estimated_duration for task in plan.tasks)
    return {
        "plan": {"id": plan.id, "name": plan.name, "tasks": tasks, "totalEstimatedTime": total},
        "taskCount": len(tasks),
    }


def planned(task: Task) -> PlannedTask:
    """The task of a plan, as it comes back from the fold of the log."""
    raw = dict(task.spec or {})
    named = raw.pop("needs", [])
    for name in ("id", "name", "description", "estimatedDuration"):
        raw.pop(name, None)
    return PlannedTask(task.id, task.name, task.description, task.estimate or 0, tuple(named), raw)
