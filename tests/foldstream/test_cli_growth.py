"""export, import, verify, seal and gc as an operator uses them: the real program on a real database."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import stat
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from eventstore import NewEvent, StreamId, archive
from eventstore.archive import Archived
from eventstore.errors import Invalid
from eventstore.stores.postgres import PostgresStore
from foldstream.commands.export import output
from foldstream.commands.gc import Folder
from foldstream.commands.import_ import input_
from tests.commandline import Terminal, environment, foldstream, program
from tests.eventstore.logs import BUILD_27, f27
from tests.eventstore.test_archive import chained
from tests.eventstore.test_verify import fold
from tests.processes import Foldstream

OTHER = StreamId("build", "28")


@pytest.fixture
async def log(database: str) -> str:
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, f27())
        await store.append(OTHER, [NewEvent("custom", key="k")])
    return database


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("SET session_replication_role = replica")
        for statement in statements:
            sql.execute(statement.encode())


# export and import ----------------------------------------------------------------------------------------------------


async def test_an_output_without_room_is_said_in_a_sentence(log: str) -> None:
    with open("/dev/full", "wb") as full:
        process = await asyncio.create_subprocess_exec(
            *program("export", "--all"), env=environment(DATABASE_URL=log), stdout=full, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"has no room: No space left on device" in said
    assert b"Traceback" not in said


async def test_what_is_exported_is_imported_and_exported_again(log: str, second_database: str, tmp_path: Path) -> None:
    file = tmp_path / "all.ndjson"
    exported = await foldstream("export", "--all", "--out", str(file), DATABASE_URL=log)
    assert (exported.code, exported.out) == (0, b"")
    assert exported.talk == ["exported 13 events of 2 streams"]
    assert [json.loads(text)["version"] for text in file.read_text().splitlines()] == [*range(1, 13), 1]
    imported = await foldstream("import", str(file), DATABASE_URL=second_database)
    assert (imported.code, imported.lines, imported.err) == (0, ["imported 13 events of 2 streams"], b"")
    again = await foldstream("export", "--category", "build", DATABASE_URL=second_database)
    assert again.out == file.read_bytes()
    repeated = await foldstream("import", "--json", "-", DATABASE_URL=log, stdin=again.out)
    assert json.loads(repeated.out) == {"streams": 0, "events": 0, "skipped": 2}


async def test_a_file_can_be_compressed_and_is_the_same_each_time(
    log: str, second_database: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "27.ndjson.gz", tmp_path / "again.ndjson.gz"
    for file in (first, second):
        assert (await foldstream("export", "27", "27", "--out", str(file), DATABASE_URL=log)).code == 0
    assert first.read_bytes() == second.read_bytes()
    assert len(gzip.decompress(first.read_bytes()).splitlines()) == 12
    second.write_bytes(first.read_bytes()[:-200])
    cut = await foldstream("import", str(second), DATABASE_URL=second_database)
    assert (cut.code, cut.out, len(cut.talk)) == (1, b"", 2)
    assert "cut off" in cut.talk[0]
    assert (await foldstream("import", str(first), DATABASE_URL=second_database)).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["27.ndjson.gz", "again.ndjson.gz"], "no half files"


async def test_a_changed_file_is_refused_and_says_where(log: str, second_database: str) -> None:
    lines = (await foldstream("export", "@last", "27", DATABASE_URL=log)).out.splitlines(keepends=True)
    lines[5] = lines[5].replace(b"Create", b"Delete")
    refused = await foldstream("import", "-", DATABASE_URL=second_database, stdin=b"".join(lines))
    assert (refused.code, refused.out, len(refused.talk)) == (1, b"", 2)
    assert refused.talk[0].startswith(
        "foldstream import: event 6 does not fit its stream build-27: version 5 has the hash"
    )
    empty = await foldstream("export", "--all", DATABASE_URL=second_database)
    assert (empty.out, empty.talk) == (b"", ["exported 0 events of 0 streams"])


@pytest.mark.parametrize("name", ["long.ndjson", "long.ndjson.gz"])
def test_a_line_that_has_no_end_is_not_read_to_its_end(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with (gzip.open if name.endswith(".gz") else open)(file, "wb") as packed:
        packed.write(b"{}\n")
        for _ in range(64):
            packed.write(b"x" * 1_000_000)
    tracemalloc.start()
    try:
        with input_(str(file)) as (lines, _, _), pytest.raises(Invalid, match="line 2 is longer than 16,777,216 bytes"):
            list(lines)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["export", "99"], "there is no build-99 in the log"),
        (["export", "27", "--out", "/no/such/folder/file"], "cannot write /no/such/folder/file"),
        (["import", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["verify", "99"], "there is no build-99 in the log"),
        (["seal", "99"], "there is no build-99 in the log"),
    ],
)
async def test_what_cannot_be_done_is_said_in_two_lines(log: str, argv: list[str], words: str) -> None:
    ended = await foldstream(*argv, DATABASE_URL=log)
    assert (ended.code, ended.out, len(ended.talk)) == (1, b"", 2)
    assert words in ended.talk[0]


@pytest.mark.parametrize(
    "argv", [["export"], ["export", "--all", "27"], ["verify"], ["verify", "27", "--all"], ["seal"]]
)
async def test_what_is_meant_has_to_be_said(argv: list[str]) -> None:
    ended = await foldstream(*argv)
    assert (ended.code, ended.out, len(ended.talk)) == (2, b"", 2)


@pytest.mark.parametrize("argv", [["export", "--all"], ["import", "-"], ["verify", "--all"], ["seal", "27"], ["gc"]])
async def test_without_a_database_two_lines_say_so(argv: list[str], empty_database: str, tmp_path: Path) -> None:
    for where, words in (
        ({"FOLDSTREAM_DATA_DIR": str(tmp_path)}, "there is no database in "),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x"}, "Postgres cannot be reached"),
        ({"DATABASE_URL": empty_database}, "the database has no log in it"),
    ):
        ended = await foldstream(*argv, **where)
        assert (ended.code, ended.out, len(ended.talk)) == (1, b"", 2)
        assert words in ended.talk[0]


async def test_commands_work_beside_a_server_that_runs(service: Foldstream) -> None:
    folder = str(Path(service._folder).absolute())
    await foldstream("emit", "growth-1", "custom", url=service.url)
    exported = await foldstream("export", "growth-1", "--data-dir", folder)
    assert [json.loads(text)["stream"] for text in exported.lines] == ["build-growth-1"]
    assert (await foldstream("verify", "growth-1", FOLDSTREAM_DATA_DIR=folder)).code == 0
    assert (await foldstream("seal", "growth-1", "--data-dir", folder)).lines == [
        "build-growth-1 is sealed at version 1"
    ]
    refused = await foldstream("emit", "growth-1", "custom", url=service.url)
    assert (refused.code, "sealed" in refused.talk[0]) == (1, True)


async def test_a_bar_is_shown_to_who_watches_and_to_nobody_else(log: str) -> None:
    async with Terminal() as terminal:
        await terminal.start(program("verify", "--all"), environment(DATABASE_URL=log))
        assert await terminal.ended() == 0
        assert b"verifying" in terminal.shown
        assert b"all is as it was written: 2 streams, 13 events" in terminal.shown


# verify ---------------------------------------------------------------------------------------------------------------


async def test_verify_says_that_all_is_well(log: str) -> None:
    ended = await foldstream("verify", "--all", DATABASE_URL=log)
    assert (ended.code, ended.err) == (0, b"")
    assert ended.lines == [
        "all is as it was written: 2 streams, 13 events, 0 stored states; 2 without a snapshot yet; --repair makes them"
    ]
    ended = await foldstream("verify", "27", "@last", "--json", DATABASE_URL=log)
    told = json.loads(ended.out)
    assert (ended.code, told["streams"], told["differences"]) == (0, 2, [])


async def test_verify_names_what_differs(log: str) -> None:
    execute(log, "UPDATE events SET type = 'x' WHERE version = 5")
    ended = await foldstream("verify", "--all", DATABASE_URL=log)
    assert ended.code == 1
    assert ended.lines[0].startswith("build-27: version 5 has the hash ")
    assert ended.lines[1].startswith("1 differ: 2 streams, ")
    ended = await foldstream("verify", "27", "--json", DATABASE_URL=log)
    [difference] = json.loads(ended.out)["differences"]
    assert (ended.code, difference["stream"], difference["folded"]) == (1, "build-27", False)
    assert (await foldstream("verify", "28", DATABASE_URL=log)).code == 0


async def test_verify_repairs_states(log: str) -> None:
    await fold(log)
    execute(log, "UPDATE states SET status = 'x'")
    wrong = await foldstream("verify", "--all", DATABASE_URL=log)
    assert (wrong.code, len(wrong.lines)) == (1, 3)
    assert (
        wrong.lines[0]
        == "build-27: its stored state at version 12 has the status label 'x', and its events make 'completed'"
    )
    mended = await foldstream("verify", "--all", "--repair", DATABASE_URL=log)
    assert (mended.code, mended.err) == (0, b"")
    assert mended.lines[-1].startswith("2 differ, 2 states made anew: ")
    assert (await foldstream("verify", "--all", DATABASE_URL=log)).code == 0


async def test_verify_makes_states_that_are_missing(log: str) -> None:
    await fold(log)
    execute(log, "DELETE FROM states")
    mended = await foldstream("verify", "--all", "--repair", DATABASE_URL=log)
    assert (mended.code, mended.lines) == (
        0,
        ["all is as it was written, 2 states made anew: 2 streams, 13 events, 0 stored states"],
    )
    execute(log, "DELETE FROM states WHERE id = '28'", "UPDATE events SET type = 'x' WHERE version = 5")
    assert (await foldstream("verify", "--all", "--repair", DATABASE_URL=log)).code == 1


async def test_what_is_damaged_is_not_exported(log: str, tmp_path: Path) -> None:
    execute(log, "DELETE FROM events WHERE version = 12")
    ended = await foldstream("export", "--all", "--out", str(tmp_path / "x"), DATABASE_URL=log)
    assert (ended.code, len(ended.talk)) == (1, 2)
    assert "1 events between build-27 and build-28 are not there" in ended.talk[0]
    assert list(tmp_path.iterdir()) == []


# gc -------------------------------------------------------------------------------------------------------------------


async def test_gc_does_nothing_of_itself(log: str) -> None:
    ended = await foldstream("gc", DATABASE_URL=log)
    assert (ended.code, ended.err) == (0, b"")
    assert ended.lines == ["retention is off: nothing is sealed, nothing is dropped (EVENT_RETENTION_DAYS)"]


async def test_gc_rotates_exports_and_drops(log: str, second_database: str, tmp_path: Path) -> None:
    lines = (await foldstream("export", "--all", DATABASE_URL=log)).out
    execute(
        log,
        "UPDATE partitions SET born_at = now() - interval '40 days'",
        "UPDATE streams SET updated_at = now() - interval '40 days'",
    )
    said = (await foldstream("gc", "--dry-run", DATABASE_URL=log, EVENT_RETENTION_DAYS="30")).lines
    assert said == [
        "new streams would be born into a new partition",
        "would be sealed: 2 streams without an append for 30 days",
        "events_1 would be dropped (2 streams, 13 events)",
    ]
    argv = ["gc", "--older-than", "30", "--export", str(tmp_path / "old")]
    done = await foldstream(*argv, DATABASE_URL=log)
    assert (done.code, done.err) == (0, b"")
    assert done.lines == [
        "new streams are born into events_2",
        "sealed: 2 streams without an append for 30 days",
        "events_1 dropped (2 streams, 13 events)",
    ]
    [file] = (tmp_path / "old").iterdir()
    assert re.fullmatch(r"events_1\.[0-9a-f]{8}\.ndjson\.gz", file.name)
    assert gzip.decompress(file.read_bytes()) == lines
    assert stat.S_ISREG(file.stat().st_mode)
    assert (await foldstream("import", "--seal", str(file), DATABASE_URL=second_database)).code == 0
    assert json.loads((await foldstream("gc", "--json", DATABASE_URL=log, EVENT_RETENTION_DAYS="30")).out) == {
        "rotated": None,
        "sealed": 0,
        "trouble": "",
        "partitions": [],
    }
    gone = await foldstream("export", "27", DATABASE_URL=log)
    assert (gone.code, "have left the log" in gone.talk[0]) == (1, True)
    verified = await foldstream("verify", "--all", DATABASE_URL=log)
    assert verified.lines == [
        "all is as it was written: 2 streams, 0 events, 2 stored states; 2 whose events have left the log"
    ]


async def test_two_logs_are_archived_into_one_folder(log: str, second_database: str, tmp_path: Path) -> None:
    lines = {}
    async with PostgresStore(second_database) as store:
        await store.append(OTHER, [NewEvent("custom")])
    for database in (log, second_database):
        execute(
            database,
            "UPDATE meta SET epoch = gen_random_uuid()",  # both are copies of one database
            "UPDATE partitions SET born_at = now() - interval '40 days'",
            "UPDATE streams SET updated_at = now() - interval '40 days'",
        )
        with psycopg.connect(database) as sql:
            [epoch] = sql.execute("SELECT left(epoch::text, 8) FROM meta").fetchone() or [""]
        lines[epoch] = (await foldstream("export", "--all", DATABASE_URL=database)).out
        done = await foldstream("gc", "--older-than", "30", "--export", str(tmp_path), DATABASE_URL=database)
        assert done.lines[-1].startswith("events_1 dropped")
    assert {file.name.split(".")[1]: gzip.decompress(file.read_bytes()) for file in tmp_path.iterdir()} == lines


async def test_a_complete_archive_is_never_overwritten(tmp_path: Path) -> None:
    """Two logs may have one epoch: a copy of a database is another log."""
    one, two = (chained(OTHER, [data]) for data in (b'{"a":1}', b'{"a":2}'))
    shelf = Folder(tmp_path, "0123456789")
    for _ in range(2):
        await shelf.put(1, each(one))
    with pytest.raises(Invalid, match="something else"):
        await shelf.put(1, each(two))
    [file] = tmp_path.iterdir()
    assert gzip.decompress(file.read_bytes()) == b"".join(map(archive.line, one))
    assert (shelf.has(1), Folder(tmp_path, "other").has(1)) == (True, False)


async def each(events: list[Archived]) -> AsyncIterator[Archived]:
    for event in events:
        yield event


def test_a_file_has_its_name_when_both_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    fsync = os.fsync

    def seen(opened: int) -> None:
        fsync(opened)
        flushed.append((os.readlink(f"/proc/self/fd/{opened}"), (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", seen)
    with output(tmp_path / "file") as file:
        file.write(b"x")
    assert flushed == [(str(tmp_path / "file.part"), False), (str(tmp_path), True)]


@pytest.mark.parametrize("days", ["0", "-1", "x", "nan"])
async def test_a_retention_that_is_none_is_refused(days: str) -> None:
    assert (await foldstream("gc", f"--older-than={days}")).code == 2
    if days != "0":
        ended = await foldstream("gc", EVENT_RETENTION_DAYS=days)
        assert (ended.code, "EVENT_RETENTION_DAYS" in ended.talk[0]) == (1, True)
