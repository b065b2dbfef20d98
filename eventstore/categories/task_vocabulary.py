"""The words of a task: its event types, and what each type's data must and may hold.

Pure. `check` completes what every reader relies on: a task has a type, a failure has a reason, and ``message`` is never
missing. Unknown types and unknown fields pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eventstore.errors import Invalid
from eventstore.event import Data

ALIASES: Mapping[str, str] = {}
"""The source documents have one name for each thing that happens to a task."""

MESSAGES: Mapping[str, str] = {
    "task_created": "Waiting for a worker...",
    "task_started": "Task started by {worker}",
    "task_progress": "Working...",
    "task_completed": "Task completed",
    "task_failed": "Task failed: {error}",
    "task_reset": "Starting again: {reason}",
}
"""What `message` says where the producer said nothing. {braces} take a field of the data, or a neutral word."""

_NEUTRAL = {"worker": "a worker", "error": "no reason was given", "reason": "the worker fell silent"}

TYPES = frozenset(MESSAGES)
DEFAULT_TYPE = "task"
MOST_TYPE = 100
MOST_ICON = 16
MOST_STEPS = 1000


def message_of(type_: str, data: Data) -> str:
    """What an event says: its message, else the words for its type, else nothing. Total: takes any data."""
    message = data.get("message")
    if isinstance(message, str) and message:
        return message
    given = {name: data.get(name) for name in _NEUTRAL}
    words = {name: value for name, value in given.items() if value and isinstance(value, (str, int))}
    return MESSAGES.get(type_, "").format_map({**_NEUTRAL, **words})


def check(type_: str, data: Data) -> Data:
    """The data to store for an event of this type; raises Invalid naming the field."""
    if type_ not in TYPES:
        return data
    checked = dict(data)
    _text(checked, "message")
    _RULES[type_](checked)
    checked["message"] = message_of(type_, checked)
    return checked


def _text(data: Mapping[str, Any], name: str, most: int | None = None) -> None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{name} is not text", pointer=f"/{name}")
    if value and most is not None and len(value) > most:
        raise Invalid(f"{name} has {len(value):,} characters; the most is {most}", pointer=f"/{name}")


def _created(data: dict[str, Any]) -> None:
    _text(data, "type", MOST_TYPE)
    data["type"] = data.get("type") or DEFAULT_TYPE
    steps = data.get("steps")
    if steps is None:
        return
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise Invalid(
            "steps is not a list of texts", fix="Send the messages that are to come, in order.", pointer="/steps"
        )
    if len(steps) > MOST_STEPS:
        raise Invalid(f"{len(steps):,} steps; the most is {MOST_STEPS:,}", pointer="/steps")


def _started(data: dict[str, Any]) -> None:
    _text(data, "worker")


def _progress(data: dict[str, Any]) -> None:
    _text(data, "icon", MOST_ICON)


def _completed(data: dict[str, Any]) -> None:
    result = data.get("result")
    if result is not None and not isinstance(result, Mapping):
        raise Invalid(
            "result is not an object", fix='Send it as {"result": {"...": ...}}: its fields join result_data.',
            pointer="/result",
        )  # fmt: skip


def _failed(data: dict[str, Any]) -> None:
    _text(data, "error")
    data["error"] = data.get("error") or data.get("message") or "No reason was given"


def _reset(data: dict[str, Any]) -> None:
    _text(data, "reason")


_RULES: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "task_created": _created,
    "task_started": _started,
    "task_progress": _progress,
    "task_completed": _completed,
    "task_failed": _failed,
    "task_reset": _reset,
}
