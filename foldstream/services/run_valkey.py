"""Valkey on this machine: a doorbell. It keeps no data and listens on one Unix socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from foldstream.services.process import Server, account, launched, socket_folder, writing
from foldstream.services.programs import VALKEY, Places, find

SETTINGS = {"port": "0", "unixsocketperm": "700", "save": "", "appendonly": "no", "daemonize": "no", "logfile": ""}


@contextmanager
def running(data_dir: Path, *, places: Places) -> Iterator[Server]:
    """Start Valkey; its log goes to ``data_dir``/valkey.log."""
    data_dir = data_dir.absolute()
    user = account(None)
    program = find(VALKEY, user, places)
    with writing(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
    with socket_folder(user) as sockets:
        path = sockets / "valkey.sock"
        argv = [str(program.path), "--unixsocket", str(path), "--dir", str(sockets)]
        for name, value in SETTINGS.items():
            argv += [f"--{name}", value]
        with launched(
            VALKEY.title,
            f"unix://{quote(str(path))}",
            argv,
            ready=lambda _pid: _answers(path),
            account=user,
            sockets=sockets,
            log=data_dir / "valkey.log",
        ) as server:
            yield server


def _answers(path: Path) -> bool:
    """Whether the server on this socket, which lies in a folder of our own, says PONG."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(1.0)
        try:
            line.connect(str(path))
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False
