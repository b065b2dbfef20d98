"""next_jobs(state): what a build needs next, as a function of its fold. The whole pipeline is this table, asked again.

Pure. Theory: nothing else decides. A worker does one job, appends what happened, folds, asks again, and enqueues the
answer in the same transaction. So a crash at any point is the same line run again, and asking twice costs nothing:
a job has a key, and a key stands in the queue at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eventstore.categories.build import FINAL, Build, Task
from eventstore.event import Event

KINDS = ("plan", "task", "build", "deploy")
"""What a job can be, in the order of a build. Each kind has a queue of this name, so each can have its own workers."""


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One piece of work: its kind, the build's id and, for a task, the task's id."""

    kind: str
    build: str
    step: str = ""

    @property
    def key(self) -> str:
        """What makes this job one and the same however often it is asked for: ``build-27/task/html``."""
        return f"build-{self.build}/{self.kind}" + (f"/{self.step}" if self.step else "")


def _plan(state: Build, build: str) -> tuple[Job, ...]:
    return (Job("plan", build),)


def _tasks(state: Build, build: str) -> tuple[Job, ...]:
    """Every task that may run now; when all are done, the build."""
    done = {task.id for task in state.tasks if task.status == "completed"}
    if len(done) == len(state.tasks) >= state.task_count:
        return _build(state, build)
    return tuple(
        Job("task", build, task.id)
        for task in state.tasks
        if task.status in {"pending", "running"} and done.issuperset(needs(task))
    )


def _build(state: Build, build: str) -> tuple[Job, ...]:
    return (Job("build", build),)


def _deploy(state: Build, build: str) -> tuple[Job, ...]:
    return (Job("deploy", build),)


NEXT: Mapping[str, Callable[[Build, str], tuple[Job, ...]]] = {
    "build_queued": _plan,
    "plan_started": _plan,
    "plan_generated": _tasks,
    "plan_updated": _tasks,
    "task_started": _tasks,
    "task_completed": _tasks,
    "task_failed": _tasks,
    "task_reset": _tasks,
    "deploy_started": _build,
    "build_started": _build,
    "build_progress": _build,
    "build_completed": _deploy,
    "deploy_progress": _deploy,
}
"""After which stage comes what."""


def next_jobs(state: Build, build: str) -> tuple[Job, ...]:
    """What should be in the queue, or in hand, for this build now; nothing when it is over or was never asked for."""
    if state.status in FINAL:
        return ()
    following = NEXT.get(state.stage)
    return following(state, build) if following else ()


def needs(task: Task) -> tuple[str, ...]:
    """The ids of the tasks that must be completed before this one."""
    named = (task.spec or {}).get("needs")
    return tuple(str(name) for name in named) if isinstance(named, list) else ()


STARTS: Mapping[str, str] = {
    "plan": "plan_started",
    "task": "task_started",
    "build": "build_started",
    "deploy": "deploy_progress",
}
"""The event with which a job of each kind says that it begins; its data carries ``attempt``: 1, 2, 3..."""


def attempts(events: Iterable[Event], job: Job) -> int:
    """How often ``job`` was begun. The last to begin holds the job; whoever began earlier has lost it."""
    begun = 0
    for event in events:
        if event.type == STARTS[job.kind]:
            data = event.data
            if job.kind != "task" or data.get("taskId") == job.step:
                begun = max(begun, _whole(data.get("attempt")))
    return begun


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
