"""`foldstream run` on a terminal: the command has a terminal too, and nothing about it is different but one line."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE

import pytest

from eventstore import StreamId
from tests.commandline import NOWHERE, Terminal, environment, program
from tests.serving import Served, serving_memory


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    async with Terminal() as terminal:
        yield terminal


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


def python(text: str) -> list[str]:
    return [sys.executable, "-Ic", textwrap.dedent(text)]


COLOURFUL = python(r"""
    import os, sys
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        if stream.isatty():
            size = os.get_terminal_size(stream.fileno())
            print(f"\x1b[1;32m{name}\x1b[0m {size.columns}x{size.lines}\tcaf\u00e9", file=stream, flush=True)
        else:
            print(name, file=stream, flush=True)
    print("10%\r20%\r30%", end="")
""")


async def test_colours_sizes_and_order_are_the_same() -> None:
    shown = []
    for argv in (COLOURFUL, program("run", "--quiet", "--", *COLOURFUL)):
        async with Terminal(columns=101, rows=33) as terminal:
            await terminal.start(argv)
            assert await terminal.ended() == 0
            shown.append(terminal.shown)
    assert b"\x1b[1;32mout\x1b[0m 101x33" in shown[0]
    assert b"\x1b[1;32merr\x1b[0m 101x33" in shown[0]
    assert shown[0] == shown[1]


async def test_only_the_address_is_added(terminal: Terminal, served: Served) -> None:
    await terminal.start(program("run", "--id", "7", "--", "echo", "hello"), environment(served.url))
    assert await terminal.ended() == 0
    assert terminal.shown.decode() == f"  watch: {served.url}/ui/runs/7\r\nhello\r\n"


async def test_the_address_is_json_for_those_who_ask(terminal: Terminal, served: Served) -> None:
    await terminal.start(program("run", "--json", "--id", "7", "--", "true"), environment(served.url))
    assert await terminal.ended() == 0
    assert json.loads(terminal.shown) == {"run": "build-7", "url": f"{served.url}/ui/runs/7"}


async def test_a_stream_that_is_not_a_terminal_gets_nothing_added(terminal: Terminal, served: Served) -> None:
    await terminal.start(program("run", "--", *COLOURFUL), environment(served.url), stderr=PIPE)
    assert terminal.process is not None
    assert terminal.process.stderr is not None
    err = await terminal.process.stderr.read()
    assert await terminal.ended() == 0
    assert err == b"err\n"
    assert terminal.shown.startswith(b"\x1b[1;32mout\x1b[0m 80x24")


async def test_what_could_not_be_told_is_said_at_the_end(terminal: Terminal) -> None:
    await terminal.start(program("run", "--", "echo", "hello"))
    assert await terminal.ended() == 0
    lines = terminal.shown.decode().splitlines()
    assert lines[1] == "hello"
    assert lines[2].startswith(f"foldstream: 3 events were not delivered: the server at {NOWHERE} cannot be reached")
    assert "foldstream dev" in lines[3]
    assert len(lines) == 4


async def test_a_wrong_address_is_said_to_a_person(terminal: Terminal) -> None:
    await terminal.start(program("run", "--", "echo", "hello"), environment("nonsense"))
    assert await terminal.ended() == 0
    lines = terminal.shown.decode().splitlines()
    assert "the run is not recorded: FOLDSTREAM_URL" in lines[0]
    assert lines[2:] == ["hello"]


async def test_keys_reach_the_command(terminal: Terminal) -> None:
    asking = python("""
        import getpass
        print("got", input("name? "))
        print("got", getpass.getpass("secret? "))
    """)
    await terminal.start(program("run", "--quiet", "--", *asking))
    await terminal.until(b"name? ")
    terminal.type(b"ann\n")
    await terminal.until(b"secret? ")
    terminal.type(b"pass\n")
    assert await terminal.ended() == 0
    assert b"got ann" in terminal.shown
    assert terminal.shown.count(b"pass") == 1, "what is typed at a password prompt is not shown"


async def test_a_new_size_is_passed_on(terminal: Terminal) -> None:
    measuring = python("""
        import os, signal
        resized = []
        signal.signal(signal.SIGWINCH, lambda *_: resized.append(os.get_terminal_size(1)))
        print("ready", flush=True)
        while not resized or resized[-1].columns != 120:
            signal.pause()
        print("now", resized[-1].columns, resized[-1].lines)
    """)
    await terminal.start(program("run", "--quiet", "--", *measuring))
    await terminal.until(b"ready")
    terminal.resize(120, 40)
    await terminal.until(b"now 120 40")
    assert await terminal.ended() == 0


INTERRUPTED = python("""
    import os, signal, sys
    count = 0
    def asked(number, frame):
        global count
        count += 1
        os.write(1, b"asked %d\\n" % count)  # print is not for handlers
        signal.setitimer(signal.ITIMER_REAL, 0.3)
    signal.signal(signal.SIGINT, asked)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(5))
    print("ready", flush=True)
    while True:
        signal.pause()
""")


async def test_ctrl_c_reaches_the_command_once(terminal: Terminal, served: Served) -> None:
    await terminal.start(program("run", "--quiet", "--id", "7", "--", *INTERRUPTED), environment(served.url))
    await terminal.until(b"ready")
    terminal.type(b"\x03")
    assert await terminal.ended() == 5
    assert b"asked 1" in terminal.shown
    assert b"asked 2" not in terminal.shown
    last = (await served.store.read(StreamId("build", "7"), 0))[-1]
    assert (last.type, last.data["signal"]) == ("run_cancelled", "SIGINT")


async def test_ctrl_c_ends_a_command_that_does_nothing_about_it(terminal: Terminal, served: Served) -> None:
    argv = program("run", "--quiet", "--id", "7", "--", "sh", "-c", "echo ready; exec sleep 60")
    await terminal.start(argv, environment(served.url))
    await terminal.until(b"ready")
    terminal.type(b"\x03")
    assert await terminal.ended() == -2
    assert (await served.store.read(StreamId("build", "7"), 0))[-1].type == "run_cancelled"


async def test_ctrl_z_stops_and_fg_goes_on(terminal: Terminal, tmp_path: Path) -> None:
    """The shell's job control works through the wrapper: it stops as one job and goes on as one."""
    await terminal.start(["bash", "--norc", "--noprofile", "--noediting", "-i"], environment(PS1="$ "))
    await terminal.until(b"$ ")
    # It reads only after it goes on: the shell waits for the wrapper to have stopped, not for the command.
    waiting = """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
        print("re" + "ady", flush=True)
        signal.sigwait([signal.SIGCONT])
        print("got", input())
    """
    (tmp_path / "waiting.py").write_text(textwrap.dedent(waiting))
    argv = program("run", "--quiet", "--", sys.executable, "-I", str(tmp_path / "waiting.py"))
    terminal.type(" ".join(argv).encode() + b"\n")
    await terminal.until(b"ready")
    terminal.type(b"\x1a")
    await terminal.until(b"$ ", after=b"Stopped")
    terminal.type(b"fg\n")
    await terminal.until(b"foldstream", after=b"fg\r\n")
    terminal.type(b"hello\n")
    await terminal.until(b"$ ", after=b"got hello")
    terminal.type(b"exit 6\n")
    assert await terminal.ended() == 6
