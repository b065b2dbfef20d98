"""The state of a build: what is known of it and of its steps, and the order of its status words.

Pure data; `eventstore.categories.build` folds events into it. Structs, as each event makes a changed copy or two: of a
dataclass one takes 3 us, of a struct 0.3. Fields are stored by name in snapshots: whoever adds,
removes or renames one raises the category's version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

FINAL = frozenset({"completed", "failed", "cancelled"})
ORDER: Mapping[str, int] = {"unknown": 0, "queued": 1, "planning": 2, "executing": 3, "deploying": 4}
"""The status words of a build that goes on, in the order in which it passes them; the final ones come after all."""


class Task(msgspec.Struct, frozen=True, gc=False):
    """One step of the plan. status: pending, running, completed, failed. estimate and times: seconds, UTC."""

    id: str
    name: str
    description: str = ""
    status: str = "pending"
    estimate: int | float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    files: tuple[str, ...] = ()
    spec: Mapping[str, Any] | None = None


class Build(msgspec.Struct, frozen=True, gc=False):
    """Everything that is known of a build.

    status    unknown, queued, planning, executing, deploying, completed, failed, cancelled; never goes back.
    stage     how far the work went: the type of the last event that moved it on (what `pipeline.flow` decides by). It
              never goes back to an earlier phase, whatever a worker that lost its job may still say.
    progress  0..100, never falls. legacy: the same on the old documents' scale.
    request   the data of build_queued or run_started: what was asked for.
    done      how many of ``tasks`` are completed, running: how many run. Counted on, so that no event counts them all.
    log_url   where the whole log of the build step lies.
    """

    status: str = "unknown"
    stage: str = ""
    progress: int = 0
    legacy: int = 0
    message: str = ""
    request: Mapping[str, Any] | None = None
    tasks: tuple[Task, ...] = ()
    task_count: int = 0
    done: int = 0
    running: int = 0
    preview_url: str | None = None
    log_url: str | None = None
    error: str | None = None
    events: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    updated_at: datetime | None = None
