"""The command line: what it says, where, and with which exit code; every failure in two lines."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from eventstore import StreamId, replay
from eventstore.errors import Conflict, FoldstreamError, Forbidden, NotFound, tree
from foldstream import cli
from foldstream.commands.talk import Exit, Parser
from streaming.token import Signer
from tests.commandline import NOWHERE, done, environment, foldstream, program, start, weather
from tests.serving import F27, SECRET, Served, serving_memory

JWT_SECRET = SECRET.strip()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


# the frame ------------------------------------------------------------------------------------------------------------


async def test_version_and_help_answer_at_once() -> None:
    for option in ("--version", "--help"):
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            ended = await foldstream(option)
            seconds.append(time.perf_counter() - begun)
            assert ended.code == 0
            assert ended.err == b""
        assert min(seconds) < 0.2


@pytest.mark.parametrize("modules", ["foldstream.cli", "foldstream.cli, foldstream.commands.run"])
async def test_what_must_be_quick_loads_nothing_slow(modules: str) -> None:
    slow = ("eventstore", "streaming", "httpx2", "asyncio", "rich", "orjson", "dataclasses", "subprocess", "socket")
    code = f"import {modules}, sys; print([name for name in {slow} if name in sys.modules])"
    assert (await done(await start([sys.executable, "-c", code]))).lines == ["[]"]


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (_, purpose) in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(purpose)}$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_two_functions_a_help_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert module.__doc__
    assert callable(module.run)
    parser = Parser(name)
    module.arguments(parser)
    assert "--json" in parser.format_help()
    assert cli.main([name, "--help"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        [],
        ["--nonsense"],
        ["status"],
        ["status", "not an id!"],
        ["status", "27", "--nonsense"],
        ["watch", "a/b"],
        ["watch", "27", "--progress", "loud"],
        ["ls", "--limit", "0"],
        ["ls", "--lim", "3"],
        ["emit", "27"],
        ["emit", "27", "status", "no pair"],
        ["emit", "27", "status", "--data", "[]"],
        ["emit", "27", "status", "--data", "{"],
        ["token"],
        ["token", "27", "--all"],
        ["token", "@last"],
        ["token", "27", "--ttl", "soon"],
        ["run"],
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_usage_is_two_lines_and_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == Exit.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 2


async def test_the_module_is_the_program() -> None:
    ended = await foldstream("--version")
    assert re.fullmatch(r"foldstream \d+\.\d+\.\d+\n", ended.out.decode())
    assert "version" in json.loads((await foldstream("--version", "--json")).out)


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command whose `run` raises its `error`."""
    module = ModuleType("failing_command", "A command that fails.")

    def run(args: object) -> int:
        raise module.error

    module.arguments = lambda parser: None  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing_command", module)
    monkeypatch.setattr(cli, "COMMANDS", {"fail": ("failing_command", "fails")})
    return module


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_failed_and_what_to_do(
    kind: type[FoldstreamError], failing: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    error = Conflict("build-27", 1, 2) if kind is Conflict else kind("this is what failed")
    failing.error = error  # type: ignore[attr-defined]
    assert cli.main(["fail"]) == (Exit.NO_ACCESS if kind is Forbidden else Exit.FAILED)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [f"foldstream fail: {error.detail}", error.fix]


def test_an_error_out_of_a_task_group_is_said_the_same(failing: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    failing.error = ExceptionGroup("", [ExceptionGroup("", [NotFound("it is gone", fix="Look elsewhere.")])])  # type: ignore[attr-defined]
    assert cli.main(["fail"]) == Exit.FAILED
    assert capsys.readouterr().err.splitlines() == ["foldstream fail: it is gone", "Look elsewhere."]


def test_a_defect_is_not_hidden(failing: ModuleType) -> None:
    failing.error = ZeroDivisionError()  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail"])


TALKING = [["status", "27"], ["ls"], ["emit", "27", "status"], ["watch", "27"], ["watch"]]


@pytest.mark.parametrize("argv", TALKING, ids=" ".join)
async def test_without_a_server_the_next_step_is_named(argv: list[str]) -> None:
    ended = await foldstream(*argv)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.talk[-2].startswith(f"foldstream {argv[0]}: the server at {NOWHERE} cannot be reached")
    assert "foldstream dev" in ended.talk[-1]


@pytest.mark.parametrize("token", ["", "nonsense", "töken"])
@pytest.mark.parametrize("argv", TALKING, ids=" ".join)
async def test_without_a_right_it_is_4(argv: list[str], token: str) -> None:
    async with serving_memory(signer=Signer([JWT_SECRET])) as served:
        ended = await foldstream(*argv, url=served.url, FOLDSTREAM_TOKEN=token)
    assert ended.code == (1 if token == "töken" else 4)
    assert ended.out == b""
    assert len(ended.talk) == 2


@pytest.mark.parametrize("argv", TALKING, ids=" ".join)
async def test_a_stranger_at_the_address_is_recognised(argv: list[str]) -> None:
    async with weather(NOWHERE, lambda n, line: "404") as between:
        ended = await foldstream(*argv, url=between.url)
    assert (ended.code, ended.out) == (1, b"")
    assert "not as foldstream does" in ended.talk[-2]
    assert "FOLDSTREAM_URL" in ended.talk[-1]


async def test_a_wrong_address_is_said() -> None:
    ended = await foldstream("ls", url="localhost:8000")
    assert ended.code == 1
    assert ended.talk[0].startswith("foldstream ls: FOLDSTREAM_URL: is not an address that begins with http://")


async def test_a_reader_that_has_seen_enough_is_no_error(served: Served) -> None:
    await served.append("27", *["status"] * 900, "run_completed")
    pipeline = ["sh", "-c", '"$@" | head -1', "sh", *program("watch", "27", "--json")]
    ended = await done(await start(pipeline, environment(served.url)))
    assert (ended.code, len(ended.lines), ended.err) == (0, 1, b"")


# status, ls -----------------------------------------------------------------------------------------------------------


async def test_status_shows_progress_and_steps(served: Served) -> None:
    await served.client.post("/api/builds/27/events", json=F27[:7])
    for run in ("27", "build-27", "@last"):
        ended = await foldstream("status", run, url=served.url)
        assert ended.code == 0
        assert ended.lines[0] == "build-27  executing  60 %  27"
        assert ended.lines[1:4] == [
            "  ✓ Create HTML Test Page  35.2 s",
            "  ✓ Create CSS Styles  47.9 s",
            "  ⏳ Create JavaScript File",
        ]
    state = json.loads((await foldstream("status", "27", "--json", url=served.url)).out)
    assert (state["id"], state["progress"]) == ("build-27", 60)


async def test_status_of_nothing_is_an_error(served: Served) -> None:
    for run in ("27", "@last"):
        ended = await foldstream("status", run, url=served.url)
        assert (ended.code, ended.out, len(ended.talk)) == (1, b"", 2)


async def test_ls_shows_the_newest_first(served: Served) -> None:
    assert (await foldstream("ls", url=served.url)).out == b""
    await served.append("1", "run_started", command="make \x1b[31mtest")
    await served.append("2", "run_started", "run_completed", name="second")
    ended = await foldstream("ls", url=served.url)
    assert [re.split(r"  +", line)[0:2] for line in ended.lines] == [["build-2", "completed"], ["build-1", "executing"]]
    assert ended.lines[1].endswith("make test")
    limited = json.loads((await foldstream("ls", "--limit", "1", "--json", url=served.url)).out)
    assert [run["id"] for run in limited] == ["build-2"]


# emit -----------------------------------------------------------------------------------------------------------------


async def recorded(served: Served, id_: str = "27") -> list[tuple[int, str, dict[str, object]]]:
    return [(event.version, event.type, event.data) async for event in replay(served.store, StreamId("build", id_))]


async def test_emit_takes_pairs_and_prints_ids(served: Served) -> None:
    pairs = ["taskName=Create HTML", 'taskId="7"', "filesCreated=2", "ok=true", "note=a=b", "empty="]
    ended = await foldstream("emit", "27", "custom_thing", *pairs, url=served.url)
    assert (ended.code, ended.lines, ended.err) == (0, ["1"], b"")
    data = {"taskName": "Create HTML", "taskId": "7", "filesCreated": 2, "ok": True, "note": "a=b", "empty": ""}
    assert await recorded(served) == [(1, "custom_thing", data)]


async def test_emit_takes_json_and_pairs_win(served: Served) -> None:
    ended = await foldstream("emit", "27", "x", "a=2", "--data", '{"a": 1, "b": [1]}', "--json", url=served.url)
    assert json.loads(ended.out) == {"run": "build-27", "ids": [1]}
    assert await recorded(served) == [(1, "x", {"a": 2, "b": [1]})]


async def test_emit_with_a_key_records_once(served: Served) -> None:
    for _ in range(2):
        ended = await foldstream("emit", "27", "status", "--key", "once", url=served.url)
        assert ended.lines == ["1"]
    assert len(await recorded(served)) == 1


async def test_emit_reads_events_from_stdin(served: Served) -> None:
    events = [{"type": "status", "data": {"n": n}} for n in range(1200)]
    text = "\n".join(map(json.dumps, events)) + "\n\n"
    ended = await foldstream("emit", "27", "-", url=served.url, stdin=text.encode())
    assert (ended.code, ended.err) == (0, b"")
    assert ended.lines == [str(id_) for id_ in range(1, 1201)]
    assert [data["n"] for _, _, data in await recorded(served)] == list(range(1200))


async def test_emit_sends_a_line_as_soon_as_it_is_there(served: Served) -> None:
    process = await start(program("emit", "27", "-"), environment(served.url))
    assert process.stdin is not None
    assert process.stdout is not None
    for expected in (b"1\n", b"2\n"):
        process.stdin.write(b'{"type": "status"}\n')
        assert await asyncio.wait_for(process.stdout.readline(), 15) == expected
    assert (await done(process)).code == 0


async def test_emit_keeps_the_time_and_the_key_of_a_line(served: Served) -> None:
    line = b'{"type": "status", "key": "k", "timestamp": "2025-07-22T07:13:50Z", "requestId": "r"}'
    for _ in range(2):
        assert (await foldstream("emit", "27", "-", url=served.url, stdin=line)).lines == ["1"]
    (event,) = await served.store.read(StreamId("build", "27"), 0)
    assert (event.at, event.request_id) == (datetime(2025, 7, 22, 7, 13, 50, tzinfo=UTC), "r")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not json", "line 2 of stdin is not JSON"),
        (b"[]", "line 2 of stdin is not an object with a type"),
        (b'{"type": "x", "dta": {}}', "line 2 of stdin has a field 'dta'"),
        (b'{"type": "x", "timestamp": "noon"}', "line 2 of stdin has a timestamp that is no time"),
        (b'{"type": "status", "data": {"progress": 400}}', "lines 1 to 2 of stdin: progress is '400'"),
    ],
)
async def test_emit_names_the_line_that_is_wrong(served: Served, line: bytes, words: str) -> None:
    ended = await foldstream("emit", "27", "-", url=served.url, stdin=b'{"type": "status"}\n' + line + b"\n")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.talk[0].startswith(f"foldstream emit: {words}")
    assert len(ended.talk) == 2
    assert await recorded(served) == []


async def test_emit_says_which_field_is_wrong(served: Served) -> None:
    ended = await foldstream("emit", "27", "status", "progress=400", url=served.url)
    assert ended.code == 1
    assert ended.talk[0] == "foldstream emit: progress is '400', not a number from 0 to 100 (at /data/progress)"


async def test_emit_gets_through_bad_weather_once(served: Served) -> None:
    async with weather(served.url, lambda n, line: ["503", "drop", ""][min(n, 3) - 1]) as between:
        ended = await foldstream("emit", "27", "status", url=between.url)
    assert (ended.code, ended.lines) == (0, ["1"])
    assert len(await recorded(served)) == 1


# token ----------------------------------------------------------------------------------------------------------------


async def token(*argv: str, **env: str) -> str:
    ended = await foldstream("token", *argv, **{"JWT_SECRET": JWT_SECRET, **env})
    assert (ended.code, ended.err) == (0, b"")
    return ended.out.decode().strip()


async def test_a_token_is_for_one_run() -> None:
    signer, now = Signer([JWT_SECRET]), datetime.now(UTC)
    made = await token("27")
    signer.verify(made, "build-27", "read", now)
    signer.verify(made, "build-27", "write", now)
    with pytest.raises(Forbidden, match="another run"):
        signer.verify(made, "build-28", "read", now)


async def test_a_token_can_be_for_all_for_reading_and_for_a_while() -> None:
    signer, now = Signer([JWT_SECRET]), datetime.now(UTC)
    told = json.loads(await token("--all", "--read-only", "--ttl", "15m", "--json"))
    assert (told["run"], told["scope"]) == ("*", "read")
    signer.verify(told["token"], "build-27", "read", now)
    with pytest.raises(Forbidden, match="right to write"):
        signer.verify(told["token"], "build-27", "write", now)
    assert 890 < (datetime.fromisoformat(told["expires"]) - now).total_seconds() <= 901


async def test_the_secret_of_a_development_server_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(JWT_SECRET)
    made = await token("27", JWT_SECRET="", FOLDSTREAM_DATA_DIR=str(tmp_path))
    Signer([JWT_SECRET]).verify(made, "build-27", "write", datetime.now(UTC))


@pytest.mark.parametrize(("secret", "words"), [("", "there is no JWT_SECRET"), ("short", "JWT_SECRET has 5 bytes")])
async def test_without_a_good_secret_no_token_is_made(secret: str, words: str, tmp_path: Path) -> None:
    ended = await foldstream("token", "27", JWT_SECRET=secret, FOLDSTREAM_DATA_DIR=str(tmp_path))
    assert (ended.code, ended.out, len(ended.talk)) == (1, b"", 2)
    assert words in ended.talk[0]


async def test_no_secret_and_no_token_is_ever_said() -> None:
    ended = await foldstream("ls", FOLDSTREAM_TOKEN="very-secret-token", JWT_SECRET=JWT_SECRET)
    assert b"very-secret-token" not in ended.out + ended.err
