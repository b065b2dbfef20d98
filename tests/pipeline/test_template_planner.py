"""The template planner: three tasks, always the same for the same prompt, safe whatever the prompt says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.categories.build import Task
from eventstore.errors import StepFailed
from eventstore.event import Data
from pipeline.builders import bundle
from pipeline.planner import Brief, Plan, PlannedTask, check, plan_data, planned
from pipeline.planners.reading import COLORS, FEATURES, KINDS, read
from pipeline.planners.render import render
from pipeline.planners.template import TEMPLATES, TemplatePlanner
from pipeline.workspace import Workspace

pytestmark = pytest.mark.pure

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "blog about </script><script>alert(1)</script>",
    "blog about {{ title }} <!-- if dark --> /* end */ ${alert(1)} `+alert(1)+`",
    "blog about \u2028\u2029 '; alert(1); //",
    "todo app called \"</title><script>alert(1)</script>\"",
    "landing page for javascript:alert(1) & \\u003cscript\\u003e",
    "]]> --> */ <!-- /*",
]  # fmt: skip


async def silent(type_: str, data: Data) -> None:
    pass


async def make(prompt: str, folder: Path) -> tuple[Plan, dict[str, str]]:
    planner, brief, room = TemplatePlanner(), Brief("01JD", prompt), Workspace(folder)
    plan = await planner.plan(brief, silent)
    for task in plan.tasks:
        outcome = await planner.carry_out(task, brief, room, silent)
        assert len(outcome.files_created) == 1
    return plan, {name: room.read(name).decode() for name in room.files()}


@pytest.mark.req("S0-36")
@pytest.mark.parametrize("prompt", ["Create a todo app with dark mode", "todo app", "", "x", "🎉", *HOSTILE])
async def test_a_plan_has_exactly_three_tasks_and_fits_into_an_event(prompt: str, tmp_path: Path) -> None:
    plan, files = await make(prompt, tmp_path)
    check(plan)
    assert [task.name for task in plan.tasks] == ["Create HTML page", "Create CSS styles", "Create JavaScript file"]
    assert sorted(files) == ["app.js", "index.html", "style.css"]
    assert len(orjson.dumps(plan_data(plan))) < 850  # the rest of 1 KB is for the envelope


async def test_a_plan_survives_the_log(tmp_path: Path) -> None:
    plan, _ = await make("todo app with search", tmp_path)
    raw: list[dict[str, Any]] = json.loads(json.dumps(plan_data(plan)))["plan"]["tasks"]
    tasks = [
        Task(one["id"], one["name"], one["description"], estimate=one["estimatedDuration"], spec=one) for one in raw
    ]
    assert tuple(planned(task) for task in tasks) == plan.tasks


@pytest.mark.parametrize(
    ("prompt", "kind", "title", "features"),
    [
        ("Create a todo app with dark mode", "todo", "Todo App", {"dark"}),
        ("To-do list with search, due dates and priorities", "todo", "To-do List", {"search", "due", "priority"}),
        ("Build a landing page for a coffee shop in Rome", "landing", "Coffee Shop in Rome", set()),
        ("landing page for a todo app with pricing and FAQ", "landing", "Todo App", {"pricing", "faq"}),
        ("a blog about board games, searchable by title, with search", "blog", "Board Games", {"search"}),
        ("Analytics dashboard with dark theme and CSV export", "dashboard", "Analytics Dashboard", {"dark", "export"}),
        ("make a snake game", "game", "Snake Game", set()),
        ("a memory card game", "game", "Memory Card Game", {"memory"}),
        ("something nobody has thought of", "landing", "Something Nobody Has Thought of", set()),
        ('A journal called "Slow Mornings" with dark mode', "blog", "Slow Mornings", {"dark"}),
        ("", "landing", "My App", set()),
    ],
)
def test_a_prompt_is_understood(prompt: str, kind: str, title: str, features: set[str]) -> None:
    reading = read(prompt)
    assert (reading.kind, reading.title.split(",")[0], set(reading.features)) == (kind, title, features)


async def test_the_same_prompt_gives_the_same_files_and_another_gives_others(tmp_path: Path) -> None:
    prompts = [
        "todo app",
        "todo app with dark mode",
        "todo app called Ada",
        "game",
        "memory game",
        "blog",
        "dashboard",
        "x",
    ]
    made = []
    for number, prompt in enumerate(prompts):
        plan, files = await make(prompt, tmp_path / f"{number}a")
        assert (plan, files) == await make(prompt, tmp_path / f"{number}b")
        made.append(files)
    for name in ("index.html", "style.css"):
        assert len({files[name] for files in made}) == len(made), name


@pytest.mark.parametrize("kind", list(KINDS))
async def test_every_mixture_of_features_is_sound(kind: str, tmp_path: Path) -> None:
    """Each part of a template stands or falls without tearing the rest; ids that a script asks for are on the page."""
    planner, brief = TemplatePlanner(), Brief("27", "x")
    names = [name for name in FEATURES[kind] if name != "memory"]
    mixtures = [[], names, *[[name] for name in names]]
    games = [["snake"], ["memory"]] if kind == "game" else [[]]
    for number, chosen in enumerate([*mixture, *game] for mixture in mixtures for game in games):
        room = Workspace(tmp_path / str(number))
        for file in ("index.html", "style.css", "app.js"):
            spec = {"app": kind, "file": file, "features": " ".join(chosen), "title": "T"}
            await planner.carry_out(PlannedTask("a", "A", "", 1, (), spec), brief, room, silent)
        page = bundle.Page("index.html", room.read("index.html").decode())
        bundle.check_script("app.js", script := room.read("app.js").decode())
        bundle.check_style("style.css", style := room.read("style.css").decode())
        needed = set(re.findall(r'find\("#([\w-]+)"\)\.', script))
        assert needed <= page.ids, f"{chosen}: the page lacks {needed - page.ids}"
        assert "{{" not in page.rawdata + style + script
        assert ("theme" in page.ids) == ("dark" in chosen)


class Scripts(HTMLParser):
    """Collects everything on a page that could run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.titles: list[str] = []
        self._in: str = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        values = dict(attrs)
        if tag == "script":
            self.found.append(values.get("src") or "inline")
        self.found += [name for name in values if name.startswith("on")]
        self.found += [value for value in values.values() if value and value.strip().lower().startswith("javascript:")]
        if tag not in bundle.VOID and tag in {"img", "iframe", "object"}:
            self.found.append(tag)

    def handle_data(self, data: str) -> None:
        if self._in == "title" and data.strip():
            self.titles.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


@pytest.mark.parametrize("prompt", HOSTILE)
async def test_a_hostile_prompt_stays_a_text(prompt: str, tmp_path: Path) -> None:
    plan, files = await make(prompt, tmp_path)
    page = Scripts(files["index.html"])
    assert page.found == ["./app.js"]
    assert page.titles == [plan.name]
    bundle.check_script("app.js", files["app.js"])
    subject = re.search(r"^const subject = (.*);$", files["app.js"], re.MULTILINE)
    if subject:
        assert json.loads(subject.group(1)) == plan.tasks[2].spec["subject"]
    assert "</script" not in files["app.js"].lower()
    assert not set(files["app.js"]) & set("\u2028\u2029")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.one_of(st.text(max_size=300), st.builds(" ".join, st.lists(st.sampled_from([*HOSTILE, "blog", "game"]))))
)
async def test_any_prompt_makes_an_app_that_can_be_built(prompt: str, tmp_path: Path) -> None:
    plan, files = await make(prompt, tmp_path / "any")
    assert Scripts(files["index.html"]).found == ["./app.js"]
    assert 1 <= len(plan.name) <= 40
    bundle.check_script("app.js", files["app.js"])
    bundle.Page("index.html", files["index.html"])
    assert len(orjson.dumps(plan_data(plan))) < 850


def test_every_template_asks_for_nothing_from_outside() -> None:
    """Previews run without network and without modules."""
    for path in TEMPLATES.rglob("*.*"):
        text = path.read_text()
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|type=\"?module|\bimport\b|\bfetch\(|innerHTML|eval\(", text
        ), path


def test_every_feature_is_in_a_template_and_every_condition_is_a_feature() -> None:
    for kind, features in FEATURES.items():
        texts = [
            path.read_text() for path in [*(TEMPLATES / kind).iterdir(), TEMPLATES / "base.css", TEMPLATES / "base.js"]
        ]
        conditions = set(re.findall(r"(?:<!--|/\*) if (\w+)", "".join(texts)))
        assert conditions - {"snake"} == set(features), kind


def test_a_style_sheet_takes_only_plain_words() -> None:
    assert render("a{color:{{ c }}}", ".css", {"c": "red"}, ()) == "a{color:red}"
    with pytest.raises(ValueError, match="cannot stand"):
        render("a{color:{{ c }}}", ".css", {"c": "red} *{display:none"}, ())


def test_a_template_with_a_mistake_is_refused() -> None:
    with pytest.raises(KeyError):
        render("{{ nothing }}", ".html", {}, ())
    with pytest.raises(ValueError, match="without `end`"):
        render("<!-- if dark -->", ".html", {}, ())
    with pytest.raises(ValueError, match="without `if`"):
        render("/* end */", ".js", {}, ())


def test_conditions_nest() -> None:
    text = "a/* if x */b/* if y */c/* end */d/* end */e"
    assert [render(text, ".js", {}, wanted) for wanted in ("", "x", "xy", "y")] == ["ae", "abde", "abcde", "ae"]


async def test_a_task_that_no_template_fits_fails(tmp_path: Path) -> None:
    for spec in ({"app": "todo", "file": "../x"}, {"app": "../todo", "file": "app.js"}, {}):
        with pytest.raises(StepFailed):
            await TemplatePlanner().carry_out(
                PlannedTask("a", "A", "", 1, (), spec), Brief("1", "x"), Workspace(tmp_path), silent
            )


def test_white_text_can_be_read_on_every_colour() -> None:
    for name, (hue, saturation, lightness) in COLORS.items():
        assert contrast_with_white(hue, saturation / 100, lightness / 100) >= 4.5, name


def contrast_with_white(hue: float, saturation: float, lightness: float) -> float:
    """WCAG 2.2, relative luminance."""
    import colorsys

    channels = colorsys.hls_to_rgb(hue / 360, lightness, saturation)
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@pytest.mark.parametrize(
    "tasks", [[], [("a", ["a"])], [("a", ["b"]), ("b", ["a"])], [("a", ["x"])], [("a", []), ("a", [])], [("../a", [])]]
)
def test_a_plan_that_cannot_be_carried_out_is_refused(tasks: list[tuple[str, list[str]]]) -> None:
    from eventstore.errors import Invalid

    plan = Plan("p", "P", tuple(PlannedTask(name, name, "", 1, tuple(needs)) for name, needs in tasks))
    with pytest.raises(Invalid):
        check(plan)
