"""The planner that needs no model: a prompt becomes one of five small, complete web apps, in three tasks.

Deterministic: `reading` understands the prompt by its words, the plan says what was understood, and `carry_out` fills
the templates of `templates/{kind}/` by what the plan says: a task gives the same file wherever and whenever it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventstore.errors import StepFailed
from pipeline.planner import Brief, Outcome, Plan, PlannedTask, Report
from pipeline.planners.reading import COLORS, FEATURES, TAGLINES, Reading, number, read
from pipeline.planners.render import Value, render
from pipeline.workspace import Workspace

TEMPLATES = Path(__file__).with_name("templates")
NAMES = {"todo": "to-do list", "landing": "landing page", "blog": "blog", "dashboard": "dashboard", "game": "game"}
SHARED = {"style.css": "base.css", "app.js": "base.js"}
"""What the apps have in common stands before their own part of a file."""


class TemplatePlanner:
    """A `pipeline.planner.Planner`."""

    async def plan(self, brief: Brief, report: Report) -> Plan:
        """Three tasks that need nothing of each other: page, styles, script."""
        reading = read(brief.prompt)
        common: dict[str, Any] = {"app": reading.kind, "features": " ".join(_features(reading))}
        tasks = (
            PlannedTask(
                id="html",
                name="Create HTML page",
                description=f"The page of a {NAMES[reading.kind]}",
                estimated_duration=2,
                spec={"file": "index.html", **common, "title": reading.title},
            ),
            PlannedTask(
                id="css",
                name="Create CSS styles",
                description=f"Colours and layout, in {reading.color}",
                estimated_duration=1,
                spec={"file": "style.css", **common, "color": reading.color},
            ),
            PlannedTask(
                id="js",
                name="Create JavaScript file",
                description="What happens when it is used",
                estimated_duration=2,
                spec={"file": "app.js", **common, **({"subject": reading.subject} if reading.kind == "blog" else {})},
            ),
        )
        return Plan(id=f"plan-{brief.build}"[:60], name=reading.title, tasks=tasks)

    async def carry_out(self, task: PlannedTask, brief: Brief, workspace: Workspace, report: Report) -> Outcome:
        """Write the task's file."""
        spec = task.spec
        file, kind = str(spec.get("file")), str(spec.get("app"))
        if kind not in FEATURES or file not in {"index.html", "style.css", "app.js"}:
            raise StepFailed(f"there is no template for {file[:40]!r} of {kind[:40]!r}", code="PLAN")
        features = str(spec.get("features") or "").split()
        workspace.write(file, _text(kind, file, _values(spec, brief), features))
        return Outcome(files_created=[file])


def _features(reading: Reading) -> tuple[str, ...]:
    if reading.kind == "game" and "memory" not in reading.features:
        return (*reading.features, "snake")
    return reading.features


def _values(spec: Any, brief: Brief) -> dict[str, Value]:
    hue, saturation, lightness = COLORS.get(str(spec.get("color")), COLORS["blue"])
    seed = number(brief.prompt)
    return {
        "title": str(spec.get("title") or "My App"),
        "subject": str(spec.get("subject") or "this"),
        "tagline": TAGLINES[str(spec.get("app"))],
        "hue": hue,
        "saturation": saturation,
        "lightness": lightness,
        "seed": seed,
        "customers": 1000 + seed % 9000,
        "pace": 110 + seed % 60,
    }


def _text(kind: str, file: str, values: dict[str, Value], features: list[str]) -> str:
    parts = [TEMPLATES / SHARED[file]] if file in SHARED else []
    suffix = Path(file).suffix
    return "".join(render(path.read_text(), suffix, values, features) for path in [*parts, TEMPLATES / kind / file])
