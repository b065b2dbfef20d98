"""words: an event as a line of text, a step as a line of text, with icons: ✓ done, ⚡ in progress, 🎉 final.

Pure. The lines are those of the source documents' transcripts (S2-02, S2-03): a phase is said when it begins, with the
tick of what is settled; a task when it begins; its end only when it failed. What a run's producer wrote is foreign
text: nothing of it reaches a terminal but characters and, where wanted, colours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

ICONS: Mapping[str, str] = {
    "done": "✓",
    "doing": "⚡",
    "final": "🎉",
    "failed": "✗",
    "cancelled": "⊘",
    "next": "□",
    "now": "⏳",
}
ASCII: Mapping[str, str] = {
    "done": "[ok]",
    "doing": "[..]",
    "final": "[done]",
    "failed": "[failed]",
    "cancelled": "[cancelled]",
    "next": "[  ]",
    "now": "[..]",
}

SAID: Mapping[str, str] = {
    "status": "done",
    "plan_started": "done",
    "plan_generated": "done",
    "plan_updated": "done",
    "task_started": "doing",
    "task_failed": "failed",
    "task_reset": "doing",
    "deploy_started": "done",
    "build_started": "done",
    "build_progress": "done",
    "build_failed": "failed",
    "deploy_completed": "final",
    "deploy_failed": "failed",
    "error": "failed",
    "run_started": "doing",
    "run_completed": "done",
    "run_failed": "failed",
    "run_cancelled": "cancelled",
}
"""Event type -> icon. What is neither here nor output is not said: it moves the bar, and `--progress json` has it."""

STEP_ICONS: Mapping[str, str] = {"pending": "next", "running": "now", "completed": "done", "failed": "failed"}

COLOR = re.compile(r"\x1b\[[0-9;:]*m")
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]")


def icons() -> Mapping[str, str]:
    """Those that stdout's encoding has."""
    try:
        "".join(ICONS.values()).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return ICONS


def clean(text: str, *, color: bool = False) -> str:
    """Foreign text that may be printed: no control characters; escape sequences only if they are colours and wanted."""
    text = ESCAPE.sub(lambda found: found[0] if color and COLOR.fullmatch(found[0]) else "", text)
    return CONTROL.sub(lambda found: " " if found[0] in "\n\r" else "", text)


def lines(event: Mapping[str, Any], icon: Mapping[str, str], *, color: bool = False) -> list[str]:
    """The lines that say an event: none, one, or the output that it carries."""
    type_, data = event["type"], event["data"]
    if type_ == "run_output":
        return _output(data, color=color)
    message = clean(str(data.get("message") or ""))
    if type_ == "deploy_log":
        return [f"  {message}"]
    name = SAID.get(type_)
    if name is None:
        return []
    line = f"{icon[name]} {message}"
    if name == "failed" and data.get("error") and str(data["error"]) not in message and type_ != "run_failed":
        line += f": {clean(str(data['error']))}"
    if name == "final" and data.get("previewUrl"):
        line += f" [{clean(str(data.get('linkText') or 'View Preview'))}] {clean(str(data['previewUrl']))}"
    return [line]


def _output(data: Mapping[str, Any], *, color: bool) -> list[str]:
    logs = data.get("logs")
    dropped = data.get("dropped")
    shown = [clean(str(line), color=color) for line in logs] if isinstance(logs, list) else []
    if color:
        shown = [f"{line}\x1b[0m" if "\x1b" in line else line for line in shown]
    return [f"... {dropped} lines left out ...", *shown] if dropped else shown


def steps(found: Sequence[Mapping[str, Any]], icon: Mapping[str, str]) -> list[str]:
    """A line for each step of a state's ``steps``: icon, name, how long it took."""
    return [
        f"{icon[STEP_ICONS.get(step['status'], 'next')]} {clean(str(step['name']))}{_took(step)}{_why(step)}"
        for step in found
    ]


def _took(step: Mapping[str, Any]) -> str:
    if not (step.get("startedAt") and step.get("endedAt")):
        return ""
    seconds = (datetime.fromisoformat(step["endedAt"]) - datetime.fromisoformat(step["startedAt"])).total_seconds()
    return f"  {duration(max(0.0, seconds))}"


def _why(step: Mapping[str, Any]) -> str:
    return f"  {clean(str(step['error']))}" if step.get("error") else ""


def duration(seconds: float) -> str:
    """0.4 s, 12.3 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
