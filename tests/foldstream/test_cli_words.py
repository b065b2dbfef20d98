"""How events and steps read as lines: the transcripts of the source documents, and foreign text that stays text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eventstore.categories.build import CATEGORY
from eventstore.categories.build_vocabulary import TYPES, check
from eventstore.event import START, Event, StreamId
from foldstream.commands.watching.bar import picture
from foldstream.commands.watching.words import ASCII, ICONS, SAID, STEP_ICONS, clean, duration, lines, steps
from tests.serving import F27

pytestmark = pytest.mark.pure

BEGIN = datetime(2025, 7, 22, 10, 0, 0, tzinfo=UTC)


def said(*events: tuple[str, dict[str, Any]], icons: Any = ICONS) -> list[str]:
    """The lines of events as they are stored."""
    return [
        line
        for id_, (type_, data) in enumerate(events, 1)
        for line in lines({"id": id_, "type": type_, "data": check(type_, data)}, icons)
    ]


@pytest.mark.req("S2-02")
def test_a_new_app_reads_as_in_the_transcript() -> None:
    url = "https://e05f45e2.example.test"
    assert said(
        ("build_queued", {}),
        ("plan_started", {}),
        ("plan_generated", {"taskCount": 3}),
        ("task_started", {"message": "Creating components/TodoList.tsx..."}),
        ("task_started", {"message": "Setting up dark mode theme..."}),
        ("task_completed", {}),
        ("task_started", {"message": "Configuring Tailwind CSS..."}),
        ("task_completed", {}),
        ("task_completed", {}),
        ("status", {"message": "Installing dependencies..."}),
        ("build_started", {}),
        ("build_completed", {}),
        ("deploy_started", {}),
        ("deploy_progress", {"progress": 50}),
        ("deploy_completed", {"previewUrl": url}),
    ) == [
        "✓ Analyzing requirements...",
        "✓ Creating project structure...",
        "⚡ Creating components/TodoList.tsx...",
        "⚡ Setting up dark mode theme...",
        "⚡ Configuring Tailwind CSS...",
        "✓ Installing dependencies...",
        "✓ Building application...",
        "✓ Deploying to preview...",
        f"🎉 Your app is ready! [View Preview] {url}",
    ]


@pytest.mark.req("S2-03")
def test_an_update_reads_as_in_the_transcript() -> None:
    assert said(
        ("plan_started", {"message": "Understanding changes needed..."}),
        ("task_started", {"message": "Updating components/TodoList.tsx..."}),
        ("task_started", {"message": "Creating components/SearchBar.tsx..."}),
        ("build_started", {"message": "Rebuilding application..."}),
        ("deploy_started", {"message": "Deploying update..."}),
        (
            "deploy_completed",
            {"message": "Search feature added!", "linkText": "View Updated Preview", "previewUrl": "https://p.test"},
        ),
    ) == [
        "✓ Understanding changes needed...",
        "⚡ Updating components/TodoList.tsx...",
        "⚡ Creating components/SearchBar.tsx...",
        "✓ Rebuilding application...",
        "✓ Deploying update...",
        "🎉 Search feature added! [View Updated Preview] https://p.test",
    ]


@pytest.mark.req("S2-04")
def test_icons_have_words_where_there_is_no_unicode() -> None:
    assert (ICONS["done"], ICONS["doing"], ICONS["final"]) == ("✓", "⚡", "🎉")
    assert ASCII.keys() == ICONS.keys()
    assert all(word.isascii() for word in ASCII.values())
    assert set(SAID.values()) | set(STEP_ICONS.values()) <= ICONS.keys()
    assert said(
        ("plan_started", {}),
        ("task_started", {"taskName": "x"}),
        ("deploy_completed", {"previewUrl": "https://p.test"}),
        ("build_failed", {"error": "no space"}),
        ("run_cancelled", {}),
        icons=ASCII,
    ) == [
        "[ok] Analyzing requirements...",
        "[..] Started: x",
        "[done] Your app is ready! [View Preview] https://p.test",
        "[failed] The build failed: no space",
        "[cancelled] Cancelled",
    ]


def test_every_type_can_be_said_whatever_it_holds() -> None:
    for type_ in (*TYPES, "something_new"):
        for data in ({}, {"message": None, "logs": 7, "error": {"a": 1}}, {"logs": [1, None, {}], "dropped": 3}):
            assert all(isinstance(line, str) for line in lines({"id": 1, "type": type_, "data": data}, ICONS))


def test_output_is_shown_as_it_is_and_gaps_are_said() -> None:
    data = {"stream": "stdout", "logs": ["one", "  two"], "dropped": 1204}
    assert lines({"id": 2, "type": "run_output", "data": data}, ICONS) == [
        "... 1204 lines left out ...",
        "one",
        "  two",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("tab\tstays", "tab\tstays"),
        ("two\nlines", "two lines"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a new title\x07text", "text"),
        ("\x1b]52;c;ZXZpbA==\x1b\\clip", "clip"),
        ("\x1b[2J\x1b[Hcleared", "cleared"),
        ("\x9b2Jc1", "2Jc1"),
        ("bell\x07\x00\x7f", "bell"),
        ("cut \x1b[", "cut "),
        ("cut \x1b]0;never ends", "cut "),
    ],
)
def test_foreign_text_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text())
def test_no_text_leaves_an_escape_or_a_control_character(text: str) -> None:
    assert not any(
        (ord(character) < 32 and character != "\t") or 127 <= ord(character) < 160 for character in clean(text)
    )


@given(st.text(st.sampled_from("\x1b[]0123456789;mJH\x07\\abc\x9b")))
def test_of_escapes_only_colours_pass_and_only_where_wanted(text: str) -> None:
    assert "\x1b" not in clean(text)
    rest = clean(text, color=True)
    while "\x1b" in rest:
        before, _, after = rest.partition("\x1b")
        assert after.startswith("[")
        assert "m" in after
        rest = before + after


def test_colours_of_a_line_end_with_it() -> None:
    data = {"logs": ["\x1b[31mred"]}
    assert lines({"id": 2, "type": "run_output", "data": data}, ICONS, color=True) == ["\x1b[31mred\x1b[0m"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def view_of(*events: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    stream = StreamId("build", "27")
    recorded = [
        Event(stream, id_, START, type_, orjson.dumps(check(type_, data)), BEGIN + timedelta(seconds=id_))
        for id_, (type_, data) in enumerate(events, 1)
    ]
    return CATEGORY.view("27", CATEGORY.fold(recorded))


def shown(view: dict[str, Any], waiting: str = "") -> list[str]:
    console = Console(width=80, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(picture(view, ICONS, waiting, BEGIN + timedelta(seconds=30)))
    return [line.rstrip() for line in capture.get().splitlines()]


PLAN = {"plan": {"tasks": [{"id": str(n), "name": f"Step {n}"} for n in range(1, 5)]}}


@pytest.mark.req("S4-25")
def test_steps_show_what_is_done_what_runs_and_what_comes() -> None:
    view = view_of(
        ("plan_generated", PLAN),
        ("task_started", {"taskId": "1"}),
        ("task_completed", {"taskId": "1"}),
        ("task_started", {"taskId": "2"}),
    )
    assert steps(view["steps"], ICONS) == ["✓ Step 1  1.0 s", "⏳ Step 2", "□ Step 3", "□ Step 4"]


def test_a_failed_step_says_why() -> None:
    view = view_of(("plan_generated", PLAN), ("task_started", {"taskId": "1"}), ("task_failed", {"error": "no disk"}))
    assert steps(view["steps"], ICONS)[0] == "✗ Step 1  1.0 s  no disk"


def test_the_picture_has_name_bar_message_and_steps() -> None:
    view = view_of(
        ("plan_started", {"name": "todo app"}),
        ("plan_generated", PLAN),
        ("task_started", {"taskId": "1", "taskName": "Step 1"}),
    )
    first, bar, message, *rest = shown(view)
    assert first == "todo app  executing"
    assert bar.endswith("17 % 29.0 s")
    assert message == "Started: Step 1"
    assert rest == ["⏳ Step 1", "□ Step 2", "□ Step 3", "□ Step 4"]


def test_the_picture_says_when_the_connection_is_lost() -> None:
    assert "Connection lost" in "\n".join(
        shown(view_of(*((e["type"], e["data"]) for e in F27[:5])), "Connection lost.")
    )


def test_a_strange_link_is_only_a_link() -> None:
    view = view_of(("deploy_completed", {"previewUrl": "https://p.test/a b\x1b]0;t\x07 [bold]not bold"}))
    assert shown(view)[-1] == "🎉 https://p.test/a b [bold]not bold"


def test_the_picture_of_nothing_promises_to_begin() -> None:
    assert shown(view_of()) == ["Nothing has been recorded for build-27 yet. This starts by itself."]


def test_many_steps_are_shown_around_those_that_run() -> None:
    plan = {"plan": {"tasks": [{"id": str(n), "name": f"Step {n}"} for n in range(100)]}}
    done = [
        event
        for n in range(50)
        for event in (("task_started", {"taskId": str(n)}), ("task_completed", {"taskId": str(n)}))
    ]
    found = shown(view_of(("plan_generated", plan), *done, ("task_started", {"taskId": "50"})))[3:]
    assert found[0] == "✓ 47 more"
    assert "⏳ Step 50" in found
    assert found[-1] == "□ 41 more"
    assert len(found) == 14
