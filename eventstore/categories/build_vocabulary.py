"""The words of a build: its event types, their other names, and what each type's data must and may hold.

Pure. `check` completes what every reader relies on: ``message`` is never missing, counts agree with lists, codes are
the short ones. Unknown types and unknown fields pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eventstore.errors import Invalid
from eventstore.event import Data

ALIASES: Mapping[str, str] = {
    "plan": "plan_generated",
    "task_start": "task_started",
    "task_complete": "task_completed",
    "complete": "deploy_completed",
}

SEVERITIES = ("info", "warning", "error", "fatal")
"""Of build events. Errors and failed tasks know soft (it is tried again) and fatal (the build ends); see X32."""

CODES: Mapping[str, str] = {
    "COMPILING": "COMPILE",
    "LINTING": "LINT",
    "TESTING": "TEST",
    "BUILDING": "BUILD",
}
"""Long status codes and the short ones that are stored."""

MESSAGES: Mapping[str, str] = {
    "build_queued": "Waiting for a worker...",
    "plan_started": "Analyzing requirements...",
    "plan_generated": "Creating project structure...",
    "plan_updated": "Plan updated",
    "task_started": "Started: {taskName}",
    "task_completed": "Completed: {taskName}",
    "task_failed": "Failed: {taskName}",
    "task_reset": "Starting again: {taskName}",
    "build_started": "Building application...",
    "build_progress": "Building application...",
    "build_completed": "Application built",
    "build_failed": "The build failed",
    "deploy_started": "Deploying to preview...",
    "deploy_progress": "Uploading...",
    "deploy_log": "Deploying...",
    "deploy_completed": "Your app is ready!",
    "deploy_failed": "The deployment failed",
    "status": "Working...",
    "error": "Something went wrong",
    "run_started": "Started: {command}",
    "run_output": "Output",
    "run_completed": "Finished",
    "run_failed": "Failed with exit code {exitCode}",
    "run_cancelled": "Cancelled",
}
"""What `message` says where the producer said nothing. {braces} take a field of the data, or a neutral word."""

_NEUTRAL = {"taskName": "task", "command": "command", "exitCode": "unknown"}

TYPES = frozenset(MESSAGES)


class _Words(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return _NEUTRAL.get(name, "?")


def check(type_: str, data: Data) -> Data:
    """The data to store for an event of this type; raises Invalid naming the field."""
    if type_ not in TYPES:
        return data
    checked = dict(data)
    for rule in _RULES.get(type_, ()):
        rule(checked)
    message = checked.get("message")
    if message is None or message == "":
        checked["message"] = MESSAGES[type_].format_map(_Words(checked))
    elif not isinstance(message, str):
        raise Invalid("message is not text", pointer="/message")
    return checked


def _number_between(data: dict[str, Any], name: str, low: float, high: float) -> None:
    value = data.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Invalid(f"{name} is {str(value)[:40]!r}, not a number from {low:g} to {high:g}", pointer=f"/{name}")


def _progress(data: dict[str, Any]) -> None:
    _number_between(data, "progress", 0, 100)


def _one_of(data: dict[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    value = data.get(name)
    if value is not None and value not in allowed:
        raise Invalid(f"{name} is {str(value)[:40]!r}, not one of {', '.join(allowed)}", pointer=f"/{name}")


def _build_severity(data: dict[str, Any]) -> None:
    _one_of(data, "severity", SEVERITIES)


def _fault_severity(data: dict[str, Any]) -> None:
    _one_of(data, "severity", ("soft", "fatal"))
    if data.get("severity") is None:
        data["severity"] = "fatal"
    if data.get("retryable") is None:
        data["retryable"] = data["severity"] == "soft"


def _code(data: dict[str, Any]) -> None:
    code = data.get("code")
    if code is None:
        return
    if not isinstance(code, str):
        raise Invalid("code is not text", pointer="/code")
    data["code"] = CODES.get(code, code)


def _plan(data: dict[str, Any]) -> None:
    plan = data.get("plan")
    if plan is None:
        _number_between(data, "taskCount", 0, 100_000)
        return
    tasks = plan.get("tasks") if isinstance(plan, Mapping) else None
    if not isinstance(tasks, list):
        raise Invalid("plan.tasks is not a list", pointer="/plan/tasks")
    names = set()
    for index, task in enumerate(tasks):
        name = task.get("id") if isinstance(task, Mapping) else None
        if not isinstance(name, str) or not name or not isinstance(task.get("name"), str):
            raise Invalid("a task of the plan needs an id and a name, both text", pointer=f"/plan/tasks/{index}")
        _number_between(dict(task), "estimatedDuration", 0, 10_000_000)
        names.add(name)
    if len(names) != len(tasks):
        raise Invalid("two tasks of the plan have the same id", pointer="/plan/tasks")
    data["taskCount"] = len(tasks)


def _task(data: dict[str, Any]) -> None:
    for name in ("taskId", "taskName"):
        if data.get(name) is not None and not isinstance(data[name], str):
            raise Invalid(f"{name} is not text", pointer=f"/{name}")


def _files(data: dict[str, Any]) -> None:
    """The list wins: the number beside it is derived from it (X30)."""
    details = data.get("details")
    if isinstance(details, Mapping):
        for name in ("filesCreated", "filesModified"):
            files = details.get(name)
            if isinstance(files, list):
                data[name] = len(files)


def _task_error(data: dict[str, Any]) -> None:
    details = data.get("details")
    told = data.get("error") or (details.get("error") if isinstance(details, Mapping) else None)
    data["error"] = told or data.get("message") or "The task failed"


def _stage_error(data: dict[str, Any]) -> None:
    data["error"] = data.get("error") or data.get("message") or "No reason was given"


def _preview_url(data: dict[str, Any]) -> None:
    url = data.get("previewUrl")
    if not isinstance(url, str) or not url.startswith(("https://", "http://")) or len(url) > 2000:
        raise Invalid(
            "deploy_completed needs previewUrl, an http or https address",
            fix="A build is completed only when its preview can be opened: send its address.",
            pointer="/previewUrl",
        )


def _exit_code(data: dict[str, Any]) -> None:
    _number_between(data, "exitCode", -255, 255)


_RULES: Mapping[str, tuple[Callable[[dict[str, Any]], None], ...]] = {
    "status": (_progress, _code),
    "plan_generated": (_plan,),
    "plan_updated": (_plan,),
    "task_started": (_task,),
    "task_completed": (_task, _files),
    "task_failed": (_task, _files, _task_error, _fault_severity),
    "task_reset": (_task,),
    "build_started": (_build_severity,),
    "build_progress": (_build_severity, _progress),
    "build_completed": (_build_severity,),
    "build_failed": (_build_severity, _stage_error),
    "deploy_progress": (_progress,),
    "deploy_completed": (_preview_url,),
    "deploy_failed": (_stage_error,),
    "error": (_fault_severity, _code),
    "run_output": (_progress,),
    "run_completed": (_exit_code,),
    "run_failed": (_exit_code, _stage_error),
}
