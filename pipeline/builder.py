"""Builder: makes of a workspace what can be published. Implementations in `builders/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from pipeline.planner import Report
from pipeline.workspace import Workspace

Builder = Callable[[Workspace, Report], Awaitable[Path]]
"""Build the workspace into its ``dist`` folder, tell how it goes as ``build_progress`` events, return the folder.

Raises `StepFailed` when the files cannot be built. Cancelling it (time is up, the worker stops) leaves no process.
"""

STAGES = ("dependencies", "compile", "optimize")
"""The stages that ``build_progress`` speaks of, in order."""
