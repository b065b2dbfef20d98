"""`foldstream run`: the command runs as it would without, whatever the server does; and its page tells the truth."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventstore import StreamId
from eventstore.categories.build import CATEGORY
from foldstream.commands.running.child import SAME_PRESS
from foldstream.commands.running.tape import EVENT_BYTES, PACE
from streaming.token import Signer
from tests.commandline import NOWHERE, Done, done, environment, foldstream, program, start, weather
from tests.serving import SECRET, Served, serving_memory

NOISE = """
    # Both streams, interleaved, in odd sizes, with everything that is not text; no end of line at the end.
    import os, sys
    out = bytes(range(256)) * 40 + b"\\xff\\xfe\\x00 invalid \\xed\\xa0\\x80" + "caf\\u00e9 \\U0001f389".encode()
    for turn in range(500):
        piece = out[turn % 97 :] + b"\\r\\n" * (turn % 3) + b"%d\\n" % turn
        for number in (1, 2):
            rest = piece * (1 if number == 1 else (turn % 2))
            while rest:
                rest = rest[os.write(number, rest):]
    os.write(1, b"the end without a line's end")
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def noise(tmp_path: Path) -> list[str]:
    """A command that writes 5 MB of noise to each stream and ends with 3."""
    return [sys.executable, "-I", script(tmp_path, NOISE), "3"]


def script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def python(text: str) -> list[str]:
    return [sys.executable, "-Ic", textwrap.dedent(text)]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


async def run(*argv: str, url: str = NOWHERE, options: tuple[str, ...] = (), stdin: bytes = b"", **env: str) -> Done:
    return await foldstream("run", *options, "--", *argv, url=url, stdin=stdin, **env)


async def log(served: Served, id_: str) -> list[dict[str, Any]]:
    events = await served.store.read(StreamId("build", id_), 0)
    return [{"type": event.type, **event.data} for event in events]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """Ask again until it is so."""
    with anyio.fail_after(seconds):
        while not await condition():
            await asyncio.sleep(0.005)


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 15)).decode().strip()


# the same with and without --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [True, False], ids=["server up", "server down"])
async def test_every_byte_of_both_streams_is_the_same(served: Served, noise: list[str], up: bool) -> None:
    bare = await done(await start(noise))
    wrapped = await run(*noise, url=served.url if up else NOWHERE, options=("--id", "noise"))
    assert len(bare.out) > 5_000_000
    assert wrapped.out == bare.out
    assert wrapped.err == bare.err
    assert (wrapped.code, bare.code) == (3, 3)
    if up:
        events = await log(served, "noise")
        assert events[0]["type"] == "run_started"
        assert (events[-1]["type"], events[-1]["exitCode"]) == ("run_failed", 3)
        assert "the end without a line's end" in events[-1]["error"]
        assert "the end without a line's end" in [line for event in events for line in event.get("logs", [])]


async def test_two_streams_into_one_file_stay_in_order(noise: list[str], tmp_path: Path) -> None:
    written = []
    for name, argv in (("bare", noise), ("wrapped", program("run", "--", *noise))):
        with (tmp_path / name).open("wb") as file:
            await done(await start(argv, stdout=file, stderr=file))
        written.append((tmp_path / name).read_bytes())
    assert len(written[0]) > 7_000_000
    assert written[0] == written[1]


@pytest.mark.parametrize("code", [0, 1, 3, 255])
async def test_the_exit_code_is_kept(code: int) -> None:
    assert (await run("sh", "-c", f"exit {code}")).code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
async def test_a_death_by_signal_is_the_same_death(number: signal.Signals, tmp_path: Path) -> None:
    argv = ["sh", "-c", f"kill -{number.value} $$"]
    bare = await done(await start(argv, cwd=tmp_path))
    wrapped = await done(await start(program("run", "--", *argv), cwd=tmp_path))
    assert (wrapped.code, bare.code) == (-number, -number)
    shell = await done(await start(["sh", "-c", '"$@"; exit $?', "sh", *program("run", "--", *argv)], cwd=tmp_path))
    assert shell.code == 128 + number


async def test_stdin_reaches_the_command() -> None:
    text = os.urandom(300_000)
    assert (await run("cat", stdin=text)).out == text


async def test_output_is_not_held_back() -> None:
    """A line is on the other side while the command still runs."""
    process = await start(program("run", "--", "sh", "-c", "echo one; read answer; echo $answer"))
    assert await line_of(process) == "one"
    assert (await done(process, b"two\n")).out == b"two\n"


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"LANG": "C.UTF-8"}, {"LC_CTYPE": "C.UTF-8"}])
async def test_the_environment_is_the_same(locale: dict[str, str]) -> None:
    env = {name: text for name, text in environment(**locale).items() if name != "PYTHONUTF8"}
    bare = await done(await start(["env"], env))
    wrapped = await done(await start(program("run", "--", "env"), env))
    assert sorted(wrapped.lines) == sorted(bare.lines)


async def test_open_files_and_ignored_signals_are_handed_down() -> None:
    reader, writer = os.pipe()
    try:
        shown = python(f"""
            import os, signal
            os.write({writer}, b"through")
            ignored = [s.name for s in signal.Signals if signal.getsignal(s) is signal.SIG_IGN]
            blocked = [s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
            print(ignored, blocked)
        """)
        nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
        bare = await done(await start([*nohup, *shown], pass_fds=(writer,)))
        assert os.read(reader, 100) == b"through"
        wrapped = await done(await start([*nohup, *program("run", "--", *shown)], pass_fds=(writer,)))
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
        os.close(writer)
    assert "SIGHUP" in bare.out.decode()
    assert wrapped.out == bare.out


async def test_a_reader_that_goes_away_ends_the_command() -> None:
    """`foldstream run -- yes | head -1`."""
    pipeline = ["sh", "-c", '{ "$@"; echo $? >&2; } | head -1', "sh", *program("run", "--", "yes")]
    ended = await done(await start(pipeline))
    assert ended.out == b"y\n"
    assert ended.talk[-1] == str(128 + signal.SIGPIPE)


async def test_what_a_command_leaves_behind_is_not_waited_for() -> None:
    ended = await run("sh", "-c", "sleep 60 & echo $!")
    os.kill(int(ended.out), signal.SIGKILL)
    assert ended.code == 0


async def test_what_is_written_just_after_the_end_still_comes() -> None:
    assert (await run("sh", "-c", "(sleep 0.1; echo late) & echo early")).lines == ["early", "late"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("no-such-command", 127, "command not found"), ("/etc/passwd", 126, "Permission denied")],
)
async def test_a_command_that_cannot_start_is_said_as_a_shell_does(
    served: Served, name: str, code: int, words: str
) -> None:
    ended = await run(name, url=served.url, options=("--id", "typo"))
    assert ended.code == code
    assert ended.out == b""
    assert ended.talk[0] == f"foldstream run: {name}: {words}"
    assert len(ended.talk) == 2
    events = await log(served, "typo")
    assert [event["type"] for event in events] == ["run_started", "run_failed"]
    assert (events[-1]["exitCode"], events[-1]["error"]) == (code, f"{name}: {words}")


async def test_without_a_command_the_usage_is_said() -> None:
    ended = await foldstream("run")
    assert (ended.code, ended.out, len(ended.talk)) == (2, b"", 2)


# what the page gets ---------------------------------------------------------------------------------------------------


async def test_a_run_is_told_from_its_start_to_its_end(served: Served) -> None:
    ended = await run("sh", "-c", "echo hello; echo oops >&2", url=served.url, options=("--id", "7", "--name", "a job"))
    assert (ended.code, ended.out, ended.err) == (0, b"hello\n", b"oops\n")
    first, *outputs, last = await log(served, "7")
    assert first == {
        "type": "run_started",
        "command": "sh -c 'echo hello; echo oops >&2'",
        "name": "a job",
        "message": "Started: sh -c 'echo hello; echo oops >&2'",
    }
    assert {event["stream"]: event["logs"] for event in outputs} == {"stdout": ["hello"], "stderr": ["oops"]}
    assert (last["type"], last["exitCode"]) == ("run_completed", 0)
    assert 0 < last["duration"] < 15
    state = CATEGORY.fold(await served.store.read(StreamId("build", "7"), 0)).state
    assert (state.status, state.progress) == ("completed", 100)


async def test_progress_in_the_output_moves_the_bar(served: Served) -> None:
    command = 'for n in 10 20 30; do echo "[ $n%] step"; sleep 0.3; done; exit 1'
    await run("sh", "-c", command, url=served.url, options=("--id", "8"))
    state = CATEGORY.fold(await served.store.read(StreamId("build", "8"), 0)).state
    assert (state.status, state.progress) == ("failed", 30)


async def test_a_flood_is_thinned_out_and_counted(served: Served) -> None:
    count = 400_000
    ended = await run("seq", str(count), url=served.url, options=("--id", "flood"))
    assert len(ended.lines) == count
    events = await served.store.read(StreamId("build", "flood"), 0)
    outputs = [event for event in events if event.type == "run_output"]
    lines = sum(len(event.data["logs"]) + event.data.get("dropped", 0) for event in outputs)
    assert lines == count
    assert all(len("".join(event.data["logs"])) <= EVENT_BYTES for event in outputs)
    gaps = [(second.at - first.at).total_seconds() for first, second in pairwise(outputs[:-1])]
    assert all(gap >= PACE * 0.9 for gap in gaps)  # the last one is told at the end, whatever the pace
    assert outputs[-1].data["logs"][-1] == str(count)


async def test_arguments_that_are_not_text_do_no_harm(served: Served) -> None:
    argv = [*program("run", "--id", "odd", "--"), "printf", "%s"]
    ended = await done(await start([*argv, b"\xff\xfe"], environment(served.url)))  # type: ignore[list-item]
    assert ended.out == b"\xff\xfe"
    assert (await log(served, "odd"))[0]["command"] == "printf %s '\ufffd\ufffd'"


async def test_a_script_learns_the_address(served: Served, tmp_path: Path) -> None:
    ended = await run("true", url=served.url, options=("--url-file", str(tmp_path / "url"), "--json"))
    assert (ended.code, ended.out, ended.err) == (0, b"", b"")
    url = (tmp_path / "url").read_text()
    id_ = url.strip().rpartition("/")[2]
    assert url == f"{served.url}/ui/runs/{id_}\n"
    assert len(await log(served, id_)) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--id", "not an id"), "is not an id"), (("--url-file", "/nowhere/file"), "cannot write /nowhere/file")],
)
async def test_a_wrong_option_is_said_before_the_start(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    ended = await run("touch", str(tmp_path / "started"), options=options)
    assert ended.code == 1
    assert words in ended.talk[0]
    assert len(ended.talk) == 2
    assert not (tmp_path / "started").exists()


async def test_a_token_is_sent() -> None:
    secret = SECRET.strip()
    async with serving_memory(signer=Signer([secret])) as served:
        token = (await foldstream("token", "9", JWT_SECRET=secret)).out.decode().strip()
        await run("true", url=served.url, options=("--id", "9"), FOLDSTREAM_TOKEN=token)
        assert [event["type"] for event in await log(served, "9")] == ["run_started", "run_completed"]


# when the server is not as it should be -------------------------------------------------------------------------------


async def test_a_server_that_was_away_gets_everything_in_order(served: Served) -> None:
    """Refused for a while, then answers get lost on the way: the log has every event once."""
    faults = ["503", "503", "drop", "503", "drop"]
    async with weather(served.url, lambda n, line: faults[n - 1] if n <= len(faults) else "") as between:
        command = "for n in 1 2 3 4 5 6; do echo $n; sleep 0.3; done"
        ended = await run("sh", "-c", command, url=between.url, options=("--id", "away"))
    assert ended.lines == ["1", "2", "3", "4", "5", "6"]
    events = await log(served, "away")
    assert events[0]["type"] == "run_started"
    assert events[-1]["type"] == "run_completed"
    assert [line for event in events for line in event.get("logs", [])] == ended.lines


async def test_a_server_that_answers_late_is_waited_for_at_the_end(served: Served) -> None:
    """It refuses at first, and the command has ended long before: its page shall not show it running for ever."""
    async with weather(served.url, lambda n, line: "503" if n < 3 else "") as between:
        await run("true", url=between.url, options=("--id", "late"))
    assert [event["type"] for event in await log(served, "late")] == ["run_started", "run_completed"]


async def test_a_server_that_is_down_costs_no_waiting_and_no_word() -> None:
    with anyio.fail_after(4):  # of the 5 seconds that a server is waited for which has answered before
        ended = await run("echo", "x")
    assert (ended.code, ended.out, ended.err) == (0, b"x\n", b"")


async def test_a_wrong_address_does_not_stop_the_command() -> None:
    ended = await run("echo", "x", url="not an address")
    assert (ended.code, ended.out, ended.err) == (0, b"x\n", b"")


@pytest.mark.live
async def test_a_server_that_never_answers_does_not_hold_up_the_command() -> None:
    async with weather(NOWHERE, lambda n, line: "deaf") as between:
        process = await start(
            program("run", "--", "sh", "-c", "echo first; sleep 0.5; echo second"), environment(between.url)
        )
        assert await line_of(process) == "first"
        assert await line_of(process) == "second"
        ended = await done(process, seconds=10)
    assert (ended.code, ended.err) == (0, b"")


async def test_without_a_right_the_command_runs_all_the_same() -> None:
    async with serving_memory(signer=Signer([SECRET])) as served, weather(served.url, lambda n, line: "") as between:
        ended = await run("sh", "-c", "echo x; sleep 0.5; echo y", url=between.url)
    assert (ended.code, ended.out, ended.err) == (0, b"x\ny\n", b"")
    assert len(between.seen) == 1, "a refusal is not asked for twice"


# signals --------------------------------------------------------------------------------------------------------------

STUBBORN = """
    import os, signal, sys
    def polite(number, frame):
        os.write(1, f"asked {signal.Signals(number).name}\\n".encode())  # print is not for handlers
        if sys.argv[1] == "polite":
            sys.exit(7)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, polite)
    print(os.getpid(), flush=True)
    while True:
        signal.pause()
"""


async def started(served: Served, manner: str, id_: str, folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    """The wrapper, and the pid of its command, which is ready."""
    argv = program("run", "--id", id_, "--", sys.executable, "-I", script(folder, STUBBORN), manner)
    process = await start(argv, environment(served.url))
    return process, int(await line_of(process))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_group_ends_the_command_once(
    served: Served, number: signal.Signals, tmp_path: Path
) -> None:
    process, _ = await started(served, "polite", "polite", tmp_path)
    os.killpg(process.pid, number)
    ended = await done(process)
    assert ended.lines == [f"asked {number.name}"]
    assert ended.code == 7
    last = (await log(served, "polite"))[-1]
    assert (last["type"], last["exitCode"], last["signal"]) == ("run_cancelled", 7, number.name)


async def test_ctrl_c_ends_a_shell_and_what_it_started(served: Served) -> None:
    process = await start(
        program("run", "--id", "shell", "--", "sh", "-c", "sleep 60 & echo $!; wait"), environment(served.url)
    )
    sleeping = int(await line_of(process))
    os.killpg(process.pid, signal.SIGINT)
    ended = await done(process)
    assert ended.code == -signal.SIGINT

    async def gone() -> bool:
        try:
            # A shell makes what it starts with & ignore SIGINT; the end of the streams must not depend on it.
            os.kill(sleeping, signal.SIGTERM)
        except ProcessLookupError:
            return True
        return False

    await until(gone)
    assert (await log(served, "shell"))[-1]["type"] == "run_cancelled"


async def test_a_second_ctrl_c_kills(served: Served, tmp_path: Path) -> None:
    process, _ = await started(served, "stubborn", "stubborn", tmp_path)
    os.kill(process.pid, signal.SIGINT)
    assert await line_of(process) == "asked SIGINT"
    loop = asyncio.get_running_loop()
    loop.call_later(SAME_PRESS * 1.2, os.kill, process.pid, signal.SIGINT)
    await done(process)
    assert process.returncode == -signal.SIGKILL
    last = (await log(served, "stubborn"))[-1]
    assert (last["type"], last["exitCode"], last["signal"]) == ("run_cancelled", 137, "SIGINT")


async def test_sigterm_twice_is_still_polite(served: Served, tmp_path: Path) -> None:
    """timeout(1) signals its child and then its group."""
    process, command = await started(served, "stubborn", "patient", tmp_path)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        assert await line_of(process) == "asked SIGTERM"
    os.kill(process.pid, signal.SIGINT)
    assert await line_of(process) == "asked SIGINT"
    os.kill(command, signal.SIGKILL)  # the command has a group of its own: it would outlive the test
    assert (await done(process)).code == -signal.SIGKILL


async def test_a_signal_that_is_ignored_is_no_reason_to_end(served: Served) -> None:
    """`nohup foldstream run ...` and a hang-up."""
    nohup = [
        "sh",
        "-c",
        'trap "" HUP; exec "$@"',
        "sh",
        *program("run", "--id", "nohup", "--", "sh", "-c", "echo ready; read x"),
    ]
    process = await start(nohup, environment(served.url))
    assert await line_of(process) == "ready"
    os.kill(process.pid, signal.SIGHUP)
    assert (await done(process)).code == 1, "the end of its input ends it, not the signal"
    assert (await log(served, "nohup"))[-1]["type"] == "run_failed"


async def test_other_signals_are_passed_on() -> None:
    process = await start(
        program(
            "run",
            "--",
            *python("""
            import signal
            import os
            signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"usr1\\n"))
            print("ready", flush=True)
            signal.pause()
        """),
        )
    )
    assert await line_of(process) == "ready"
    os.kill(process.pid, signal.SIGUSR1)
    assert await line_of(process) == "usr1"
    assert (await done(process)).code == 0
