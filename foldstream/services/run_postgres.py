"""PostgreSQL on this machine: one data folder per major version, one launcher per data folder, one Unix socket.

**The lock.** ``data_dir``/lock is locked by the launcher and inherited by its initdb, its PostgreSQL and every process
of those. The kernel gives it up when the last of them is gone. Whoever holds it knows: nobody of ours uses this data.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from eventstore.errors import CannotStart
from foldstream.services.process import Account, Server, account, advice, launched, socket_folder, writing
from foldstream.services.programs import POSTGRES, Places, Program, find

PORT = 5432  # a part of the socket's name, no port: nothing listens on TCP
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "cluster_name": "foldstream",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
LOCALES = ("C.UTF-8", "C")  # by preference; not every system has the first
INITDB_SECONDS = 30.0
BUSY_SECONDS = 1.0  # how long to wait for a lock whose launcher lives,
ORPHAN_SECONDS = 20.0  # and for one whose launcher is dead and whose server is writing its last checkpoint


@contextmanager
def running(data_dir: Path, *, durable: bool, places: Places) -> Iterator[Server]:
    """Start PostgreSQL on ``data_dir``/pgNN; its log goes to ``data_dir``/postgres.log."""
    data_dir = data_dir.absolute()
    clusters = _clusters(data_dir)
    user = account(clusters[0] if clusters else None)
    program = find(POSTGRES, user, places)
    with writing(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
    with _claimed(data_dir) as lock:
        cluster = _prepared(data_dir, program, user, lock, durable=durable)
        with (
            socket_folder(user) as sockets,
            launched(
                POSTGRES.title,
                _url(sockets),
                _command(program, _as_seen(cluster, user), sockets, durable=durable),
                ready=lambda pid: _is_ready(cluster, pid),
                account=user,
                sockets=sockets,
                log=data_dir / "postgres.log",
                cwd=cluster,
                keep=[lock],
            ) as server,
        ):
            yield server


def running_url(data_dir: Path) -> str:
    """The URL of the PostgreSQL that somebody runs on ``data_dir``, ready at this moment; "" if there is none.

    For commands beside `foldstream dev`: the server says in its own file where its socket is.
    """
    for cluster in _clusters(data_dir.absolute()):
        with suppress(OSError, IndexError):
            lines = (cluster / "postmaster.pid").read_text().splitlines()
            sockets = lines[4]
            if lines[7].strip() != "ready":
                continue
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"{sockets}/.s.PGSQL.{PORT}")
            return _url(sockets)
    return ""


def _url(sockets: str | Path) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(sockets))}&port={PORT}"


def _command(program: Program, cluster: str, sockets: Path, *, durable: bool) -> list[str]:
    settings = SETTINGS | ({} if durable else NOT_DURABLE)
    argv = [str(program.path.with_name("postgres")), "-D", cluster, "-k", str(sockets), "-p", str(PORT)]
    return argv + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _clusters(data_dir: Path) -> list[Path]:
    """The data folders of any version that are there, the newest first."""
    try:
        names = [name for name in os.listdir(data_dir) if re.fullmatch(r"pg\d+", name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CannotStart(f"cannot read {data_dir}: {error.strerror}", fix="Choose another --data-dir.") from error
    return [data_dir / name for name in sorted(names, key=lambda name: int(name[2:]), reverse=True)]


@contextmanager
def _claimed(data_dir: Path) -> Iterator[int]:
    """Hold the lock of this data; gives the descriptor that PostgreSQL has to inherit."""
    path = data_dir / "lock"
    with writing(data_dir), path.open("a+") as file:
        lock = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 64)  # out of the way of the single digits that a shell uses
    try:
        begun = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                holder = path.read_text().strip()
                if time.monotonic() - begun > (BUSY_SECONDS if _lives(holder) else ORPHAN_SECONDS):
                    raise CannotStart(
                        f"another foldstream (process {holder or 'unknown'}) uses {data_dir}",
                        fix="Stop it, or choose another --data-dir.",
                    ) from error
                time.sleep(0.02)
        with writing(data_dir):
            path.write_text(f"{os.getpid()}\n")
        yield lock
    finally:
        os.close(lock)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    return True


def _prepared(data_dir: Path, program: Program, user: Account, lock: int, *, durable: bool) -> Path:
    """The data folder of this version, made if there is none yet."""
    cluster = data_dir / f"pg{program.major}"
    others = [other for other in _clusters(data_dir) if other != cluster]
    if not cluster.exists():
        if others:
            raise _other_version(others[0], others[0].name[2:], program)
        _make(cluster, program, user, lock, durable=durable)
    try:
        version = (cluster / "PG_VERSION").read_text().strip()
    except PermissionError as error:
        raise CannotStart(
            f"the data in {cluster} belongs to another user than {user.name}",
            fix="Run as the user that made it, or choose another --data-dir.",
        ) from error
    except OSError as error:
        raise CannotStart(
            f"{cluster} holds no database: {error.strerror} (PG_VERSION)",
            fix="Move that folder away, or choose another --data-dir.",
        ) from error
    if version != str(program.major):
        raise _other_version(cluster, version, program)
    _forget_stranger(cluster)
    return cluster


def _other_version(cluster: Path, version: str, program: Program) -> CannotStart:
    return CannotStart(
        f"the data in {cluster} is of PostgreSQL {version}, and {program.path.parent} is PostgreSQL {program.major}",
        fix=f"Run it with PostgreSQL {version}, move the data over with pg_dump, or choose another --data-dir.",
    )


def _make(cluster: Path, program: Program, user: Account, lock: int, *, durable: bool) -> None:
    """Run initdb beside the place and rename: an interrupted initdb leaves nothing that looks like a database."""
    making = cluster.with_name(cluster.name + ".making")
    with writing(cluster.parent):
        if making.exists():
            shutil.rmtree(making)
        making.mkdir(mode=0o700)
        user.own(making)
    argv = [str(program.path), "-D", _as_seen(making, user), "-U", "postgres", "-E", "UTF8", "--no-instructions"]
    # The sockets' folder is the door, and only its owner has the key.
    argv += ["--auth-local=trust", "--auth-host=reject"]
    argv += [] if durable else ["--no-sync"]
    for name in LOCALES:
        failure = _initdb([*argv, f"--locale={name}"], making, user, lock)
        if "locale" not in failure:
            break
    if failure:
        shutil.rmtree(making, ignore_errors=True)
        raise CannotStart(
            f"initdb could not make a database in {cluster.parent}:\n{failure[-2000:]}",
            fix=advice(failure, "Choose another --data-dir, or set DATABASE_URL to a server that runs."),
        )
    with writing(cluster.parent):
        making.rename(cluster)


def _initdb(argv: list[str], making: Path, user: Account, lock: int) -> str:
    """Run it; "" when all went well, else what it said."""
    try:
        told = user.run(argv, cwd=making, timeout=INITDB_SECONDS, keep=[lock])
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if told.returncode == 0 else told.stderr.strip() or f"exit code {told.returncode}"


def _as_seen(folder: Path, user: Account) -> str:
    """The name under which ``user``, started in ``folder``, finds it.

    Root starts the server inside the folder and becomes another user afterwards. That user may be unable to come from
    the outside, through a home of mode 0700; Linux gives the folder a name that leads through nothing else.
    """
    inside = "/proc/self/cwd"
    return inside if user.uid is not None and os.path.exists(inside) else str(folder)


def _forget_stranger(cluster: Path) -> None:
    """Remove a postmaster.pid whose process is not the one that wrote it.

    After a kill -9 that number may belong to anybody (containers count from 1 again), and PostgreSQL would refuse to
    start. A PostgreSQL that lives on this data, started by somebody else, works in this folder: that file stays.
    """
    file = cluster / "postmaster.pid"
    with suppress(OSError, IndexError, ValueError):
        pid = int(file.read_text().split()[0])
        if not os.path.samefile(f"/proc/{pid}/cwd", cluster):
            file.unlink()


def _is_ready(cluster: Path, pid: int) -> bool:
    """Whether the server that we started says that it is ready (a stale file tells of another process)."""
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"
