"""The builder runs a real program, tells what it says in few small events, and leaves no process behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from eventstore.errors import StepFailed
from eventstore.event import Data
from pipeline.builders import bundle
from pipeline.builders.command import CommandBuilder
from pipeline.builders.static import static_builder
from pipeline.workspace import Workspace

PAGE = "<!doctype html><html><head><link rel=stylesheet href=./style.css></head><body><p>Hi<script src=app.js></script>"


class Told:
    """A Report that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, type_: str, data: Data) -> None:
        self.events.append((type_, dict(data)))

    @property
    def stages(self) -> list[str]:
        return [data["stage"] for _, data in self.events]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def room(tmp_path: Path) -> Workspace:
    room = Workspace(tmp_path / "ws")
    room.write("index.html", PAGE)
    room.write("style.css", "body { color: red; }")
    room.write("app.js", "console.log(`a ${[1].map((x) => `<${x}>`)} b`);")
    return room


def program(tmp_path: Path, text: str) -> CommandBuilder:
    path = tmp_path / "program.py"
    path.write_text("import os, signal, subprocess, sys, time\nsource, out = sys.argv[1:]\n" + text)
    return CommandBuilder([sys.executable, "-I", str(path)], grace=0.2)


async def until(found: Callable[[], Any], seconds: float = 5) -> Any:
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)
    return result


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc").exists() else True
    )


@pytest.mark.req("S1-13", "S2-14", "S2-20", "S2-22", "S2-31")
async def test_a_build_speaks_of_each_stage_in_order(room: Workspace, told: Told) -> None:
    dist = await static_builder()(room, told)
    assert sorted(path.name for path in dist.iterdir()) == ["app.js", "index.html", "style.css"]
    assert told.stages == ["dependencies", "compile", "optimize"]
    by_stage = {data["stage"]: data for _, data in told.events}
    assert by_stage["dependencies"]["message"] == "Installing dependencies..."
    assert by_stage["dependencies"]["emoji"] == "📦"
    assert by_stage["compile"]["message"] == "Building application..."
    assert by_stage["dependencies"]["logs"] == ["found 3 files, 178 bytes", "index.html uses style.css, app.js"]
    for type_, data in told.events:
        assert type_ == "build_progress"
        assert data["severity"] == "info"
        assert data["logs"]
        assert len(orjson.dumps(data)) < 900


async def test_building_again_replaces_what_was_built(room: Workspace, told: Told) -> None:
    first = await static_builder()(room, told)
    (first / "left-over.txt").write_text("old")
    second = await static_builder()(room, told)
    assert first == second
    assert not (second / "left-over.txt").exists()
    assert sorted(path.name for path in room.base.iterdir()) == ["dist", "source"]


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("index.html", "<p><b>x</p>", "</p> closes nothing inside <b>"),
        ("index.html", "<div>", "<div> is never closed"),
        ("index.html", "<p id=a><p id=a>", "the id 'a' stands twice"),
        ("index.html", "<img src=none.png>", "none.png is missing"),
        ("index.html", "<script src=/app.js></script>", "must be relative"),
        ("index.html", "<script src=../../x.js></script>", "../../x.js is missing"),
        ("app.js", "function a() { return 1;", "{ is never closed"),
        ("app.js", "a())", ") closes nothing"),
        ("app.js", "let a = 'x", "a string is never closed"),
        ("app.js", "let a = `x ${b}", "a template string is never closed"),
        ("app.js", "let a = `x ${b`", "is never closed"),
        ("style.css", "a { color: red", "{ is never closed"),
        ("style.css", "a { } }", "} closes nothing"),
        ("style.css", "/* a { }", "a string or a comment is never closed"),
        ("style.css", "a{background:url(none.png)}", "none.png is missing"),
        ("data.json", "{", "data.json"),
        ("app.js", b"\xff", "is not UTF-8 text"),
    ],
)
async def test_files_that_are_not_sound_fail(
    room: Workspace, told: Told, file: str, text: str | bytes, reason: str
) -> None:
    room.write(file, text)
    with pytest.raises(StepFailed) as failed:
        await static_builder()(room, told)
    assert reason in failed.value.detail
    assert failed.value.code == "BUILD"
    assert str(room.base) not in failed.value.detail
    assert not room.dist.exists()


async def test_an_empty_workspace_fails(tmp_path: Path, told: Told) -> None:
    with pytest.raises(StepFailed, match=r"there is no index\.html"):
        await static_builder()(Workspace(tmp_path / "empty"), told)


@pytest.mark.pure
@pytest.mark.parametrize(
    "text",
    [
        'a = b / c / d; e = /[/\'"`{]\\/x/g.test(f) ? `a${`b${{c: \'}\'}.c}`}` : "\\"";',
        "// it's {\n/* `${ */ x",
        "return /}/.test(x)",
        "const a = (1 + 2) / 3; // '",
        "`${a}` + `}` + '`'",
        "x = y++ / 2; z = [1][0] / 2",
        "",
    ],
)
def test_sound_scripts_pass(text: str) -> None:
    bundle.check_script("app.js", text)


@pytest.mark.pure
def test_making_smaller_changes_no_meaning() -> None:
    css = (
        '/* c */ a , b > c { content: " ; { /* no */ } " ; width: calc(1px + 2px); } @media (a) and (b) { d { e: f; } }'
    )
    assert bundle.smaller_style(css) == (
        'a,b > c{content: " ; { /* no */ } ";width: calc(1px + 2px)}@media (a) and (b){d{e: f}}\n'
    )
    page = (
        "<p>\n   a  b\n</p>\n<!-- gone -->\n<pre>\n  kept\n</pre>\n   <script>\n  let a = '<!-- kept -->';\n</script>"
    )
    assert bundle.smaller_page(page) == (
        "<p>\na  b\n</p>\n<pre>\n  kept\n</pre>\n<script>\n  let a = '<!-- kept -->';\n</script>\n"
    )


async def test_a_noisy_program_becomes_at_most_two_events_a_stage(tmp_path: Path, room: Workspace, told: Told) -> None:
    builder = program(
        tmp_path,
        "for stage in ('dependencies', 'compile', 'optimize'):\n"
        "    for n in range(40): print(f'[{stage}] line {n} \\x1b[31m' + 'ä' * 500)\n"
        "open(out + '/index.html', 'w')",
    )
    await builder(room, told)
    assert told.stages == [stage for stage in ("dependencies", "compile", "optimize") for _ in range(2)]
    for _, data in told.events:
        assert len(orjson.dumps(data)) < 900
        assert "\x1b" not in "".join(data["logs"])
    assert "more lines" in told.events[1][1]["logs"][0]


async def test_a_silent_program_has_stages_all_the_same(tmp_path: Path, room: Workspace, told: Told) -> None:
    await program(tmp_path, "open(out + '/index.html', 'w')")(room, told)
    assert told.stages == ["dependencies", "compile", "optimize"]


async def test_output_without_an_end_is_read_and_dropped(tmp_path: Path, room: Workspace, told: Told) -> None:
    await program(tmp_path, "sys.stdout.write('x' * 5_000_000); open(out + '/index.html', 'w')")(room, told)
    assert "more bytes of output were left out" in json.dumps(told.events)


async def test_a_program_that_fails_gives_its_last_words(tmp_path: Path, room: Workspace, told: Told) -> None:
    builder = program(tmp_path, "print('[compile] started'); print(source + '/app.js is bad'); sys.exit(3)")
    with pytest.raises(StepFailed) as failed:
        await builder(room, told)
    assert failed.value.detail == "started\nsource/app.js is bad"
    with pytest.raises(StepFailed, match="exit code 4"):
        await program(tmp_path, "sys.exit(4)")(room, told)


async def test_the_program_sees_no_secret(
    tmp_path: Path, room: Workspace, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", "very-secret")
    await program(tmp_path, "print(sorted(os.environ)); open(out + '/index.html', 'w')")(room, told)
    text = json.dumps(told.events)
    assert "PATH" in text
    assert "SECRET" not in text


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, 1); time.sleep(60)'])
open(os.path.dirname(out) + '/pids', 'w').write(f'{os.getpid()} {child.pid} ')
time.sleep(60)
"""


async def test_when_its_time_is_up_the_whole_group_ends(tmp_path: Path, room: Workspace, told: Told) -> None:
    running = asyncio.create_task(program(tmp_path, STUBBORN)(room, told))
    pids_file = room.base / "pids"
    pids = await until(
        lambda: pids_file.exists() and pids_file.read_text().endswith(" ") and pids_file.read_text().split()
    )
    started = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - started < 1
    await until(lambda: not any(is_alive(int(pid)) for pid in pids))
    assert [path.name for path in room.base.iterdir() if path.name.startswith(".out")] == []


async def test_a_polite_program_may_clean_up(tmp_path: Path, room: Workspace, told: Told) -> None:
    text = (
        "mark = os.path.dirname(out) + '/'\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(mark + 'cleaned', 'w'), sys.exit(0)))\n"
        "open(mark + 'ready', 'w'); time.sleep(60)"
    )
    running = asyncio.create_task(program(tmp_path, text)(room, told))
    await until((room.base / "ready").exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (room.base / "cleaned").exists()


async def test_what_a_program_leaves_running_is_ended(tmp_path: Path, room: Workspace, told: Told) -> None:
    text = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(os.path.dirname(out) + '/pid', 'w').write(str(child.pid)); open(out + '/index.html', 'w')"
    )
    started = time.monotonic()
    await program(tmp_path, text)(room, told)
    assert time.monotonic() - started < 5
    pid = int((room.base / "pid").read_text())
    await until(lambda: not is_alive(pid))


async def test_a_log_that_cannot_be_told_ends_the_program(tmp_path: Path, room: Workspace) -> None:
    async def broken(type_: str, data: Data) -> None:
        raise RuntimeError("the log is away")

    builder = program(tmp_path, "print('[compile] x', flush=True); time.sleep(60)")
    with pytest.raises(RuntimeError, match="the log is away"):
        await asyncio.wait_for(builder(room, broken), 5)


async def test_the_bundler_ends_with_the_worker(tmp_path: Path, room: Workspace) -> None:
    """Its standard input is the worker's life line: a worker killed with -9 leaves no bundler behind."""
    os.mkfifo(fifo := room.root / "a.txt")  # the bundler waits for somebody to write into it
    read_end, write_end = os.pipe()
    arguments = [sys.executable, "-I", bundle.__file__, str(room.root), str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*arguments, stdin=read_end, start_new_session=True)
    os.close(read_end)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.3)
        os.close(write_end)
        assert await asyncio.wait_for(process.wait(), 5) == 2
        assert fifo.exists()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
