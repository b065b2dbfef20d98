"""`foldstream watch`: the truth about a run, as lines, as JSON, as a picture; and its result as exit code."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from eventstore import NewEvent, StreamId
from tests.commandline import NOWHERE, Done, Terminal, done, environment, foldstream, program, start, weather
from tests.serving import F27, Served, serving_memory

RUN = StreamId("build", "27")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


async def watch(served: Served, *argv: str, **env: str) -> Done:
    return await foldstream("watch", *argv, url=served.url, **env)


async def record_27(served: Served, events: int = 12) -> None:
    await served.client.post("/api/builds/27/events", json=F27[:events])


async def test_a_finished_build_is_told_in_lines(served: Served) -> None:
    await record_27(served)
    for argv in (["27"], ["build-27"], ["@last"], []):
        ended = await watch(served, *argv)
        assert (ended.code, ended.err) == (0, b"")
        assert ended.lines == [
            "✓ Analyzing requirements...",
            "✓ Creating project structure...",
            "⚡ Started: Create HTML Test Page",
            "⚡ Started: Create CSS Styles",
            "⚡ Started: Create JavaScript File",
            "✓ Deploying to preview...",
            "✓ Building application...",
            "🎉 Your app is ready! [View Preview] https://e05f45e2.sheenapps-preview.pages.dev",
        ]


@pytest.mark.req("S2-04")
async def test_an_encoding_without_icons_gets_words(served: Served) -> None:
    await record_27(served, 3)
    await served.append("27", "build_failed", error="größer")
    ended = await watch(served, "27", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert ended.out.decode("ascii").splitlines() == [
        "[ok] Analyzing requirements...",
        "[ok] Creating project structure...",
        "[..] Started: Create HTML Test Page",
        "[failed] The build failed: gr??er",
    ]


@pytest.mark.parametrize(
    ("types", "code"),
    [
        (("run_started", "run_completed"), 0),
        (("run_started", "run_failed"), 1),
        (("run_started", "run_cancelled"), 3),
        (("plan_started", "build_failed"), 1),
    ],
)
async def test_the_exit_code_is_the_result(served: Served, types: tuple[str, ...], code: int) -> None:
    await served.append("27", *types)
    assert (await watch(served, "27")).code == code
    assert (await watch(served, "27", "--json", "--after", "1")).code == code


async def test_json_is_the_log(served: Served) -> None:
    await record_27(served)
    page = (await served.client.get("/v1/runs/build-27/events")).json()
    for argv in (["--json"], ["--progress", "json"]):
        ended = await watch(served, "27", *argv)
        assert [json.loads(line) for line in ended.lines] == page["events"]
    ended = await watch(served, "27", "--json", "--after", "10")
    assert [json.loads(line)["id"] for line in ended.lines] == [11, 12]
    ended = await watch(served, "27", FOLDSTREAM_PROGRESS="json")
    assert len(ended.lines) == 12


async def test_a_run_that_has_not_begun_is_waited_for(served: Served) -> None:
    process = await start(program("watch", "27"), environment(served.url))
    assert process.stdout is not None
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.readline(), 15)
    assert said.decode() == "Nothing has been recorded for build-27 yet. This starts by itself.\n"
    for type_, line in (("run_started", "⚡ Started: command"), ("run_completed", "✓ Finished")):
        await served.append("27", type_)
        assert (await asyncio.wait_for(process.stdout.readline(), 15)).decode() == f"{line}\n"
    assert (await done(process)).code == 0


async def test_a_commands_output_is_followed(served: Served) -> None:
    await served.append("27", "run_started", command="make")
    await served.append("27", "run_output", logs=["\x1b[31mred\x1b[0m \x1b]0;title\x07", "two"])
    await served.append("27", "run_failed", exitCode=2)
    assert (await watch(served, "27")).lines == ["⚡ Started: make", "red ", "two", "✗ Failed with exit code 2"]


async def test_a_timeout_is_124(served: Served) -> None:
    await served.append("27", "run_started")
    ended = await watch(served, "27", "--timeout", "0.2")
    assert ended.code == 124
    assert ended.talk == [
        "foldstream watch: build-27 had not ended after 0.2 s",
        "It may still be running: watch it again, with a longer --timeout.",
    ]


async def test_a_lost_connection_is_said_and_taken_up_again(served: Served) -> None:
    await served.append("27", "run_started")
    async with weather(served.url, lambda n, line: "cut" if n in (2, 3) else "") as between:
        process = await start(program("watch", "27"), environment(between.url))
        assert process.stdout is not None
        lines = [await asyncio.wait_for(process.stdout.readline(), 15)]
        for type_ in ("status", "status", "run_completed"):
            await served.append("27", type_)
            lines.append(await asyncio.wait_for(process.stdout.readline(), 15))
        ended = await done(process)
    assert [line.decode().strip() for line in lines] == ["⚡ Started: command", *["✓ Working..."] * 2, "✓ Finished"]
    assert ended.code == 0
    assert ended.talk[0].startswith("Connection lost")


async def test_ctrl_c_ends_the_watching_quietly(served: Served) -> None:
    await served.append("27", "run_started")
    process = await start(program("watch", "27"), environment(served.url))
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 15)
    process.send_signal(2)
    ended = await done(process)
    assert (ended.code, ended.out, ended.err) == (130, b"", b"")
    assert len(await served.store.read(RUN, 0)) == 1, "watching changes nothing"


# on a terminal --------------------------------------------------------------------------------------------------------


async def test_a_terminal_shows_bar_steps_and_link(served: Served) -> None:
    await record_27(served, 7)
    async with Terminal() as terminal:
        await terminal.start(program("watch", "27"), environment(served.url))
        await terminal.until("⏳ Create JavaScript File".encode())
        await terminal.until(b"60 %")
        await served.client.post("/api/builds/27/events", json=F27[7:])
        assert await terminal.ended() == 0
    shown = terminal.shown.decode()
    last = shown[shown.rindex("completed") :]
    assert "100 %" in last
    assert "✓ Create JavaScript File" in last
    assert "https://e05f45e2.sheenapps-preview.pages.dev" in last


async def test_a_terminal_shows_output_above_the_bar(served: Served) -> None:
    await served.append("27", "run_started", name="a job")
    await served.append("27", "run_output", logs=["[not a tag] line one", "\x1b]0;title\x07line two"])
    await served.append("27", "run_cancelled")
    async with Terminal() as terminal:
        await terminal.start(program("watch", "27"), environment(served.url))
        assert await terminal.ended() == 3
    shown = terminal.shown.decode()
    assert shown.count("[not a tag] line one") == 1
    assert shown.index("[not a tag] line one") < shown.index("line two") < shown.rindex("a job")
    assert "title" not in shown


async def test_a_terminal_is_not_drawn_more_than_ten_times_a_second(served: Served) -> None:
    loop = asyncio.get_running_loop()
    await served.append("27", "run_started", name="a-job")
    async with Terminal() as terminal:
        await terminal.start(program("watch", "27"), environment(served.url))
        await terminal.until(b"a-job")
        begun = loop.time()
        for number in range(300):
            await served.append("27", "status", message=f"step {number}")
            await asyncio.sleep(0.001)
        await served.append("27", "run_completed")
        assert await terminal.ended() == 0
        seconds = loop.time() - begun
    pictures = terminal.shown.count(b"a-job")
    assert 2 <= pictures <= seconds * 10 + 3


@pytest.mark.parametrize(
    ("env", "pattern"), [({"NO_COLOR": "1"}, rb"\x1b\[[0-9;]*3[0-9][0-9;]*m"), ({"TERM": "dumb"}, rb"\x1b")]
)
async def test_colours_and_pictures_can_be_declined(served: Served, env: dict[str, str], pattern: bytes) -> None:
    await record_27(served)
    async with Terminal() as terminal:
        await terminal.start(program("watch", "27"), environment(served.url, **env))
        assert await terminal.ended() == 0
    assert b"Your app is ready!" in terminal.shown
    assert not re.search(pattern, terminal.shown)


async def test_an_error_leaves_the_terminal_in_order() -> None:
    async with Terminal() as terminal:
        await terminal.start(program("watch", "27"), environment(NOWHERE))
        assert await terminal.ended() == 1
    assert "cannot be reached" in terminal.shown.decode()
    hidden, shown = terminal.shown.count(b"\x1b[?25l"), terminal.shown.count(b"\x1b[?25h")
    assert hidden == shown, "the cursor is there again"


async def test_a_log_that_begins_anew_is_shown_anew() -> None:
    """A restored database: fewer events than were seen, and others."""
    async with serving_memory(epoch="one") as first, serving_memory(epoch="two") as second:
        await first.append("27", "run_started", "status", "status", name="old")
        await second.store.append(RUN, [NewEvent("run_started", {"name": "new"}), NewEvent("run_cancelled")])
        async with weather(first.url, lambda n, line: "") as between:
            process = await start(program("watch", "27", "--json"), environment(between.url))
            assert process.stdout is not None
            for _ in range(3):
                await asyncio.wait_for(process.stdout.readline(), 15)
            between.upstream = second.url
            first.live.closing.set()
            first.live.hub.nudge()
            ended = await done(process)
    assert ended.code == 3
    assert [json.loads(line)["type"] for line in ended.lines] == ["reset", "run_started", "run_cancelled"]
