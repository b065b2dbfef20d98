"""The disk of the events is full: appends say so and record nothing, reads go on, and space is all that is needed.

A database on a file system of its own in memory (48 MB), in a mount namespace that only its Postgres sees: root may
make one, and so may any user where the system allows user namespaces. The write-ahead log stays on the big disk: when
that is full, Postgres stops by itself, and the tests of a server that is away say what happens.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import NewEvent, StreamId
from eventstore.errors import Unavailable
from eventstore.migrate import migrate
from eventstore.stores.postgres import PostgresStore
from foldstream.services.process import account

pytestmark = pytest.mark.live

Sql = AsyncConnection[Any]
ONE, OTHER = StreamId("build", "1"), StreamId("build", "2")
MEGABYTES = 48

# $0: where the small disk goes; $1: its options; then the program that shall see it.
MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$0" && shift && exec "$@"'
SERVE = """
import sys
from pathlib import Path
from foldstream.services import postgres
with postgres(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def command(disk: Path, data: Path) -> list[str]:
    """Runs Postgres on ``data`` where ``disk`` is a small disk that belongs to its user."""
    server = account(None)
    options = f"size={MEGABYTES}m,mode=0700"
    serve = [sys.executable, "-c", SERVE, str(data)]
    if os.geteuid() == 0:
        options += f",uid={server.uid},gid={server.gid}"
        return ["unshare", "--mount", "--", "sh", "-c", MOUNT, str(disk), options, *serve]
    # To mount one has to be root, in a namespace of one's own; Postgres refuses root, so a second one turns it back.
    back = ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}", "--"]
    mounted = ["sh", "-c", MOUNT, str(disk), options, *back, *serve]
    return ["unshare", "--user", "--map-root-user", "--mount", "--", *mounted]


@pytest.fixture(scope="module")
def small_disk() -> Iterator[tuple[str, Path]]:
    """The URL of a Postgres, and the folder in which it finds a small disk."""
    with (
        tempfile.TemporaryDirectory(prefix="foldstream-test-") as folder,
        tempfile.TemporaryDirectory(prefix="foldstream-disk-", dir="/tmp") as disk,
        tempfile.TemporaryFile("w+") as complaints,
    ):
        missing = (
            "this machine lets nobody make a small disk, so nobody knows what happens on a full one: the test needs "
            "`unshare` and `mount` (util-linux), and either root or user namespaces "
            "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
        )
        try:
            process = subprocess.Popen(
                command(Path(disk), Path(folder)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
        except FileNotFoundError:
            pytest.fail(missing)
        with process:
            assert process.stdin
            assert process.stdout
            url = process.stdout.readline().strip()
            if not url:
                complaints.seek(0)
                pytest.fail(f"{missing}; it said: {complaints.read()[-1000:]}")
            try:
                yield url, Path(disk)
            finally:
                process.stdin.close()


@pytest.fixture
async def sql(small_disk: tuple[str, Path]) -> AsyncIterator[Sql]:
    """A superuser in a database on the small disk, with a log in it."""
    server, disk = small_disk
    url = urlsplit(server)._replace(path="/small").geturl()
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as admin:
        await admin.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        await admin.execute("CREATE DATABASE small TABLESPACE small")
        try:
            await migrate(url)
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                yield connection
        finally:
            await admin.execute("DROP DATABASE small WITH (FORCE)")
            await admin.execute("DROP TABLESPACE small")


@pytest.fixture
async def store(sql: Sql, small_disk: tuple[str, Path]) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(urlsplit(small_disk[0])._replace(path="/small").geturl()) as store:
        yield store


def bulky(n: int = 0, key: str | None = None) -> NewEvent:
    """An event that takes half a page, so that pages that are there already are soon full."""
    return NewEvent("custom", {"n": n, "text": "x" * 3500}, key=key)


async def fill(sql: Sql, store: PostgresStore) -> Unavailable:
    """Leave no page on the disk, and none of the log's with room for an event; what the first to fail was told."""
    # Without vacuum the pages of a failed INSERT stay where they are: nobody gives them back.
    await sql.execute("CREATE TABLE ballast (b text) WITH (autovacuum_enabled = off)")
    await sql.execute("ALTER TABLE ballast ALTER b SET STORAGE PLAIN")
    for count in (1000, 100, 10, 1):
        for _ in range(MEGABYTES * 2**20 // 8192):
            try:
                await sql.execute(
                    "INSERT INTO ballast SELECT repeat('x', 8000) FROM generate_series(1, %s::int)", [count]
                )
            except psycopg.errors.DiskFull:
                break
    for n in range(200):
        try:
            await store.append(ONE, [bulky(n)])
        except Unavailable as error:
            return error
    pytest.fail("the disk does not become full")


async def free(sql: Sql) -> None:
    await sql.execute("DROP TABLE ballast")


async def test_an_append_on_a_full_disk_says_so_and_records_nothing(sql: Sql, store: PostgresStore) -> None:
    await store.append(ONE, [bulky()])
    error = await fill(sql, store)
    assert "No space left on device" in error.detail
    assert "nothing was recorded" in error.detail
    assert "the disk of Postgres is full" in error.detail
    assert "Free some space" in error.fix
    assert error.retryable
    assert error.status == 503
    assert error.retry_after
    before = await store.read(ONE)
    with pytest.raises(Unavailable, match="No space left on device; nothing was recorded"):
        await store.append(ONE, [bulky(n) for n in range(50)])
    with pytest.raises(Unavailable, match="No space left on device; nothing was recorded"):
        await store.append(OTHER, [bulky()], expected=0)
    assert await store.read(ONE) == before, "neither half of a list nor one too many"
    assert await store.heads([ONE, OTHER]) == {ONE: len(before)}


async def test_reads_go_on_while_the_disk_is_full(sql: Sql, store: PostgresStore) -> None:
    await store.append(OTHER, [bulky()])
    await fill(sql, store)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await store.append(ONE, [bulky()])
        log = await store.read(ONE)
        assert [event.version for event in log] == list(range(1, len(log) + 1))
        assert len(await store.read(OTHER)) == 1
        assert await store.heads([ONE, OTHER]) == {ONE: len(log), OTHER: 1}
        assert len(await store.read_all()) == len(log) + 1
        assert [line.stream for line in await store.recent("build")] == [ONE, OTHER]
        await store.ping()


async def test_many_at_once_fail_each_for_itself_and_go_through_when_there_is_space(
    sql: Sql, store: PostgresStore
) -> None:
    await store.append(ONE, [bulky()])
    await fill(sql, store)
    head = len(await store.read(ONE))

    def appends() -> list[Any]:
        lists = [store.append(ONE, [bulky(i, f"{n}:{i}") for i in range(5)]) for n in range(10)]
        return lists + [store.append(StreamId("build", f"new-{n}"), [bulky(n, "k")]) for n in range(10)]

    answers = await asyncio.gather(*appends(), return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [type(answer) for answer in failed] == [Unavailable] * len(failed)
    assert len(failed) >= 10, "there is room for a few at most"
    assert all("No space left on device; nothing was recorded" in str(answer) for answer in failed)

    await free(sql)
    recorded = await asyncio.gather(*appends())
    for answer, first in zip(recorded, answers, strict=True):
        assert isinstance(first, Unavailable) or answer == first, "what was recorded before is not recorded again"
    log = await store.read(ONE)
    assert [event.version for event in log] == list(range(1, head + 51))
    assert [len(await store.read(StreamId("build", f"new-{n}"))) for n in range(10)] == [1] * 10


async def test_nothing_has_to_be_restarted_when_there_is_space_again(sql: Sql, store: PostgresStore) -> None:
    await fill(sql, store)
    head = len(await store.read(ONE))
    backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'foldstream' ORDER BY pid"
    before = await (await sql.execute(backends)).fetchall()
    with pytest.raises(Unavailable):
        await store.append(ONE, [bulky(1)])
    await free(sql)
    [event] = await store.append(ONE, [bulky(2)])
    assert event.version == head + 1, "the very first append after it goes through, with the next version"
    assert await (await sql.execute(backends)).fetchall() == before, "on the same connections"
