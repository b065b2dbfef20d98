"""child: a command that runs as if nobody watched. Its streams pass through us byte for byte, its signals and its exit
status too.

- stdin is inherited. Where our output is a terminal the command gets a terminal, else a pipe. If our stdout and stderr
  are one and the same file, the command's are one too, so that what it writes to both stays in order.
- With a terminal in control, the command stays in our process group: only the foreground group may read the terminal,
  Ctrl-C and Ctrl-Z reach the whole group without us, and the shell's job control goes on working. Without one, it gets
  a group of its own, and what is sent to us is sent on to all of the group.
- All signals are waited for in one place (`Child.wait`), not in handlers: nothing is interrupted anywhere else.

Full-screen programs that set up the terminal through their output (curses) are not what this is for: the input is the
real terminal and stays as it is.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What asks a job to end."""
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
SAME_PRESS = 0.3
"""Seconds within which a second SIGINT is the first one once more: some senders send to us and to our group."""
LINGER = 0.5
"""Seconds that the streams stay open after the command's end for what it left behind and is still writing."""
CHUNK = 64 * 1024

Hear = Callable[[str, bytes], None]


class Ending(NamedTuple):
    """How a job ended. code: as Python tells it (-n after signal n). stopped_by: the signal that asked for the end.
    error: why it could not be started."""

    code: int
    seconds: float
    stopped_by: int | None = None
    error: str = ""


class Child:
    """One command: ``with child: child.start(); child.pass_through(hear); child.wait()``, then `drain`."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._argv = list(argv)
        self._environ = environ
        self._own_group = not _has_terminal()
        self._pid = 0
        self._interrupted_at: float | None = None
        self._outlets: list[_Outlet] = []
        self.stopped_by: int | None = None

    def __enter__(self) -> Child:
        """From here on signals are kept for `wait`, all but those that we were started to ignore (nohup, `&`)."""
        self._mine = {number for number in (*STOPS, *PASSED_ON) if signal.getsignal(number) is not signal.SIG_IGN}
        self._waited: set[int] = {*self._mine, signal.SIGCHLD, signal.SIGWINCH}
        for number in (signal.SIGCHLD, signal.SIGWINCH):
            signal.signal(number, lambda number, frame: None)  # one that is ignored might not be kept
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._waited)
        return self

    def __exit__(self, *exc: object) -> None:
        """Who asks us to end from here on asks for an end of the telling: KeyboardInterrupt."""
        while self._waited & signal.sigpending():  # sent twice, or too late to matter
            signal.sigwait(self._waited)
        for number in self._mine:
            signal.signal(number, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def start(self) -> None:
        """Start it; raises OSError if that cannot be."""
        self._outlets = _outlets()
        group: dict[str, Any] = {"setpgroup": 0} if self._own_group else {}
        try:
            self._pid = os.posix_spawnp(
                self._argv[0],
                self._argv,
                _as_given(self._environ),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, outlet.inner, target) for outlet in self._outlets for target in outlet.targets
                ],
                setsigmask=self._mask,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores, for itself
                **group,
            )
        finally:
            for outlet in self._outlets:
                os.close(outlet.inner)

    def pass_through(self, hear: Hear) -> None:
        """Begin to pass on what it writes, a thread for each stream; ``hear`` is told all of it."""
        for outlet in self._outlets:
            outlet.open(hear)

    def wait(self) -> int:
        """Pass on signals until it ends. Gives the wait status."""
        while True:
            number, from_terminal = _next_signal(self._waited)
            if number == signal.SIGCHLD:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    return status
            elif number == signal.SIGWINCH:
                for outlet in self._outlets:
                    outlet.resize()
                self._send(number)
            else:
                self._pass_on(number, from_terminal)

    def drain(self) -> None:
        """After its end: wait until all that was written has been passed on."""
        until = time.monotonic() + LINGER
        for outlet in self._outlets:
            outlet.join(max(0.0, until - time.monotonic()))
        for outlet in self._outlets:
            outlet.close()

    def _pass_on(self, number: int, from_terminal: bool) -> None:
        if number in STOPS:
            self.stopped_by = self.stopped_by or number
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted_at is None:
                self._interrupted_at = now
            elif now - self._interrupted_at > SAME_PRESS:
                self._send(signal.SIGKILL)
                return
        if self._own_group or not from_terminal:
            self._send(number)

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for one that has just ended
            (os.killpg if self._own_group else os.kill)(self._pid, number)


class _Outlet(threading.Thread):
    """One way of the command's output: from ``source`` to our own ``sink``. The command writes into ``inner``, which it
    has as ``targets`` (1, 2 or both)."""

    def __init__(self, sink: int, targets: tuple[int, ...]) -> None:
        super().__init__(name=f"outlet-{sink}", daemon=True)
        self.sink, self.targets = sink, targets
        self._terminal = os.isatty(sink)
        if self._terminal:
            self.source, self.inner = os.openpty()
            attributes = termios.tcgetattr(sink)
            attributes[1] &= ~termios.OPOST  # the real terminal does that; twice would not be the same bytes
            termios.tcsetattr(self.inner, termios.TCSANOW, attributes)
            self.resize()
        else:
            self.source, self.inner = os.pipe()
        self._over, self._close = os.pipe()

    def open(self, hear: Hear) -> None:
        self._hear = hear
        self.start()

    def resize(self) -> None:
        """Make the command's terminal as large as ours."""
        if self._terminal:
            with suppress(OSError, termios.error):  # ours may be gone
                termios.tcsetwinsize(self.source, termios.tcgetwinsize(self.sink))

    def close(self) -> None:
        """Pass on what is there, but wait for nothing more."""
        os.close(self._close)
        self.join()
        os.close(self._over)

    def run(self) -> None:
        name = "stderr" if self.sink == 2 else "stdout"
        try:
            while chunk := self._read():
                _write(self.sink, chunk)
                self._hear(name, chunk)
        except OSError:
            # Ours is closed (`... | head`). The command learns of it as it would without us: when it writes next.
            pass
        finally:
            os.close(self.source)

    def _read(self) -> bytes:
        """The next bytes; none at the end."""
        ready = select.select([self.source, self._over], [], [])[0]
        if self.source not in ready:
            return b""
        try:
            return os.read(self.source, CHUNK)
        except OSError:  # EIO: how Linux says that nobody has the terminal open any more
            return b""


def _outlets() -> list[_Outlet]:
    """The ways out; a stream of ours that is closed has none."""
    files = {}
    for number in (1, 2):
        with suppress(OSError):
            files[number] = os.fstat(number)
    if len(files) == 2 and os.path.samestat(files[1], files[2]):
        return [_Outlet(1, (1, 2))]
    return [_Outlet(number, (number,)) for number in files]


def _write(sink: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        try:
            rest = rest[os.write(sink, rest) :]
        except BlockingIOError:  # somebody who shares it with us has made it non-blocking
            select.select([], [sink], [])


def _as_given(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment but for the LC_CTYPE that Python adds where the locale is C (PEP 538): nobody asked for it."""
    environ = dict(environ)
    if environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
        with suppress(OSError), open("/proc/self/environ", "rb") as file:  # not Linux: then it stays
            if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
                del environ["LC_CTYPE"]
    return environ


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _next_signal(numbers: set[int]) -> tuple[int, bool]:
    """The next of these signals, and whether a terminal sent it (to the whole foreground group, then)."""
    if sys.platform == "darwin":  # which does not tell; nearly always it was
        return signal.sigwait(numbers), True
    info = signal.sigwaitinfo(numbers)
    return info.si_signo, info.si_code > 0  # SI_USER and its like are 0 or below


def end_like(code: int) -> NoReturn:
    """End this process as the command has ended: with its exit code, or by the signal (-code) that it died of.

    At once: taking an interpreter down with all it has loaded takes 40 ms (measured), and a thread that hangs in a name
    lookup would hold it up for longer.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the dump is the command's, not ours
        with suppress(OSError, ValueError):  # SIGKILL has no other effect than its own
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)  # the latter: we were started with that signal blocked
