"""The servers of this machine: an own PostgreSQL and an own Valkey, out of wheels, as children of one process.

``foldstream dev`` and the tests run on the real servers without Docker, root or an installation. What must hold:

- **Private.** Unix sockets in a folder that only the server's user can enter; nothing listens on TCP.
- **One owner.** A data folder belongs to one launcher at a time: a lock that the launcher *and* its Postgres hold.
- **No orphans.** A server ends with its parent, however that ends, kill -9 included (process.py says how).
- **Yours wins.** A URL that is given is used as it is, and that server is not started.
- **Back again.** A server that falls (killed, out of memory) is started again on the same socket with the same data.

All of it is synchronous: it happens before the event loop. It may be called from any thread.

    programs.py      where the servers' programs are: wheel, then PATH; a copy for the user that root becomes
    process.py       start, readiness, end and log of one server process
    run_postgres.py  the data folder and the settings of PostgreSQL
    run_valkey.py    the settings of Valkey
    revive.py        starts again what has fallen
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from foldstream.services import run_postgres, run_valkey
from foldstream.services.process import interrupt_all
from foldstream.services.programs import HERE, Places
from foldstream.services.revive import reviving

__all__ = ["HERE", "Places", "Services", "local_services", "postgres", "valkey"]


@dataclass(frozen=True, slots=True)
class Services:
    """What foldstream needs to connect to."""

    database_url: str
    redis_url: str


@contextmanager
def postgres(data_dir: Path, *, durable: bool = True, places: Places = HERE) -> Iterator[str]:
    """Run PostgreSQL on ``data_dir``/pgNN (made when missing) and give its URL, a superuser's.

    ``durable=False`` trades safety against a crash of the machine for speed: for tests.
    ``places`` says where the programs may be; raises CannotStart with the cause and what to do.
    """
    with run_postgres.running(data_dir, durable=durable, places=places) as server:
        yield server.wait_ready()


@contextmanager
def valkey(data_dir: Path, *, places: Places = HERE) -> Iterator[str]:
    """Run Valkey and give its URL. It keeps no data (Redis is only a doorbell); ``data_dir`` gets its log."""
    with run_valkey.running(data_dir, places=places) as server:
        yield server.wait_ready()


@contextmanager
def local_services(
    data_dir: Path,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    durable: bool = True,
    places: Places = HERE,
) -> Iterator[Services]:
    """Run what is not given by a URL; both servers start side by side and end side by side."""
    with ExitStack() as stack:
        database, redis = None, None
        if not database_url:
            database = stack.enter_context(run_postgres.running(data_dir, durable=durable, places=places))
        if not redis_url:
            redis = stack.enter_context(run_valkey.running(data_dir, places=places))
        ours = [server for server in (database, redis) if server]
        # Leaving runs this first, so that the second server is not asked only after the first has ended.
        stack.callback(interrupt_all, ours)
        if database:
            database_url = database.wait_ready()
        if redis:
            redis_url = redis.wait_ready()
        assert database_url
        assert redis_url
        stack.enter_context(reviving(ours))
        yield Services(database_url, redis_url)
