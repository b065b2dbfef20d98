"""One server process: whose it is, how it starts, when it is ready, how it ends.

**No orphans.** Between a launcher and its server stands a pipe that only the launcher can write to. A shell starts a
watcher that reads the pipe and then *becomes* the server, so the server is the launcher's own child and there is no
moment in which it runs unwatched. The kernel closes the pipe when the launcher ends, by kill -9 too; the watcher then
interrupts the server, which is its fast and clean shutdown. A normal end writes a line instead: the watcher just goes.
This needs nothing but POSIX (prctl's PDEATHSIG is Linux only, and fires when the starting *thread* ends).
A process forked from the launcher without exec inherits the pipe and keeps the server alive as long as itself.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eventstore.errors import CannotStart

START_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.005
LOG_BYTES = 8 * 1024 * 1024
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LOCPATH")

# $0 is the folder of the sockets, which the watcher removes when the launcher no longer can.
WATCHED = """\
exec 9<&0 </dev/null
( {
    read -r _ <&9 && exit
    kill -INT $$
    left=100
    while [ -d "$0" ] && ! rmdir "$0" && [ $left -gt 0 ]; do left=$((left - 1)); sleep 0.1; done 2>/dev/null
} & )
exec "$@" 9<&-
"""

ADVICE = (
    ("No space left on device", "Free some space on that disk, or choose another --data-dir."),
    ("user does not exist", "Give this user a line in /etc/passwd, or set DATABASE_URL and REDIS_URL."),
    ("Permission denied", "Give the user that runs the server the right to it, or choose another --data-dir."),
    ("Read-only file system", "Choose a --data-dir on a disk that can be written."),
    ('"postmaster.pid" already exists', "Stop the PostgreSQL that uses this folder, or choose another --data-dir."),
)


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as. ``uid`` None is the user that we are already."""

    name: str
    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        return None if self.uid is None else []

    def own(self, folder: Path) -> None:
        """Make the folder this user's, and nobody else's."""
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def run(
        self, argv: Sequence[str], *, timeout: float, cwd: Path = Path("/"), keep: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; it inherits ``keep``. Raises PermissionError if this user may not run it."""
        try:
            return subprocess.run(
                argv,
                cwd=cwd,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                pass_fds=keep,
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
            )
        except PermissionError as error:
            if error.errno == errno.EPERM and self.uid is not None:
                raise CannotStart(
                    f"this root may not become the user {self.name}, and PostgreSQL refuses to run as root",
                    fix="Run as an ordinary user, allow SETUID and SETGID, or set DATABASE_URL and REDIS_URL.",
                ) from error
            raise


def account(data: Path | None) -> Account:
    """Who runs a server on ``data``: we; but root becomes the owner of the data, and ``nobody`` for new data."""
    if os.geteuid() != 0:
        return Account(user_name(os.geteuid()))
    if data and data.exists() and data.stat().st_uid != 0:
        owner = data.stat()
        return Account(user_name(owner.st_uid), owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise CannotStart(
            "PostgreSQL refuses to run as root, and there is no user `nobody` to become",
            fix="Run as an ordinary user, or set DATABASE_URL and REDIS_URL.",
        ) from error
    return Account("nobody", nobody.pw_uid, nobody.pw_gid)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def environment() -> dict[str, str]:
    """What programs need to be found and loaded, and no more.

    Not our secrets (root's servers run as a user that others may be, too), and nothing that changes a server behind our
    back: PGPORT, PGDATA, a locale or a time zone that does not exist.
    """
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell what the operating system refuses in ``folder`` as one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotStart(
            f"cannot keep data in {folder}: {reason}",
            fix=advice(reason, "Choose another --data-dir, one that this user can write."),
        ) from error


def advice(text: str, otherwise: str) -> str:
    """What to do about a server's or the operating system's own words."""
    return next((fix for words, fix in ADVICE if words in text), otherwise)


class Server:
    """A server process that was started; not ready before `wait_ready`, not gone before `stop`."""

    def __init__(
        self,
        title: str,
        url: str,
        spawn: Callable[[], subprocess.Popen[bytes]],
        ready: Callable[[int], bool],
        log: Path,
    ) -> None:
        self.title, self.url, self.log = title, url, log
        self._spawn, self._ready = spawn, ready
        self._since = log.stat().st_size
        self._asked = False
        self._process = spawn()

    @property
    def pid(self) -> int:
        """Of the process, which may have ended."""
        return self._process.pid

    @property
    def has_fallen(self) -> bool:
        """It ended although nobody asked it to."""
        return not self._asked and self._process.poll() is not None

    def start_again(self) -> None:
        """A new process in the place of one that has fallen; `wait_ready` as after the first."""
        self._dismiss_watcher()
        self._since = self.log.stat().st_size
        self._process = self._spawn()

    def wait_ready(self, seconds: float = START_SECONDS, *, over: Callable[[], bool] = lambda: False) -> str:
        """Wait until the server answers and give its URL; CannotStart with the end of its log if it does not.

        ``over``: nobody needs it any more; then it returns at once.
        """
        deadline = time.monotonic() + seconds
        while not self._ready(self._process.pid) and not over():
            if self._process.poll() is not None:
                raise self._failed(f"{self.title} ended while it started (exit code {self._process.returncode})")
            if time.monotonic() > deadline:
                raise self._failed(f"{self.title} was not ready after {seconds:g} s")
            time.sleep(POLL_SECONDS)
        return self.url

    def interrupt(self) -> None:
        """Ask for a fast and clean shutdown, once (Valkey takes a second request for impatience)."""
        if not self._asked:
            self._asked = True
            self._process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """End the server; one that does not end in time is killed (PostgreSQL recovers at its next start)."""
        try:
            self.interrupt()
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._dismiss_watcher()

    def _dismiss_watcher(self) -> None:
        """It has nothing left to watch."""
        assert self._process.stdin
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(b"\n")

    def _failed(self, what: str) -> CannotStart:
        with self.log.open("rb") as file:
            file.seek(max(self._since, self.log.stat().st_size - 2000))
            tail = file.read().decode(errors="replace").strip()
        return CannotStart(f"{what}:\n{tail}", fix=advice(tail, f"Read {self.log}."))


def interrupt_all(servers: Iterable[Server]) -> None:
    """Ask all of them before waiting for one of them."""
    for server in servers:
        server.interrupt()


@contextmanager
def socket_folder(account: Account) -> Iterator[Path]:
    """A new folder that only this user (and root) can enter; short, as a socket's path may have 107 bytes."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="foldstream-", dir="/tmp"))
    except OSError as error:
        raise CannotStart(
            f"cannot make a folder for sockets in /tmp: {error.strerror}", fix="Make /tmp writable, with some space."
        ) from error
    try:
        account.own(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def launched(
    title: str,
    url: str,
    argv: Sequence[str],
    *,
    ready: Callable[[int], bool],
    account: Account,
    sockets: Path,
    log: Path,
    cwd: Path = Path("/"),
    keep: Sequence[int] = (),
) -> Iterator[Server]:
    """Start a server and end it when the block is left. ``keep`` are descriptors that it inherits."""
    with writing(log.parent):
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))
        log.open("ab").close()

    def spawn() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", WATCHED, str(sockets), *argv],
                bufsize=0,
                cwd=cwd,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=keep,
                start_new_session=True,  # a terminal's Ctrl-C must reach us, and only through us the servers
                user=account.uid,
                group=account.gid,
                extra_groups=account.groups,
            )

    server = Server(title, url, spawn, ready, log)
    try:
        yield server
    finally:
        server.stop()
