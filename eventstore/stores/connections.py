"""Connections: the pool to Postgres, with what psycopg's pool leaves open.

- A connection that the server closed while it was idle is thrown away before it is used, so that nobody who comes
  after a restart notices it. (Its socket has something to read: one system call, no round trip.)
- Nobody waits longer than `patience` for a server that has frozen: the socket is cut, and that ends the waiting.
- While the server is away callers are turned down after half a second; each of them is a try to reach it again.
- As far as the user may, a connection acts as `foldstream_app`, which can append and can change nothing.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.types.string import ByteaBinaryLoader
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from eventstore.errors import FoldstreamError, Invalid, Unavailable

Connection = AsyncConnection[tuple[Any, ...]]

# No sequential scans: every statement of ours has its index, and a plan made while a table was small stays in use.
SETTINGS = """
SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false),
       set_config('statement_timeout', %(statement)s, false), set_config('lock_timeout', %(lock)s, false),
       set_config('idle_in_transaction_session_timeout', %(statement)s, false), set_config('TimeZone', 'UTC', false)
"""
# Since PostgreSQL 16 a member may be denied SET ROLE; before, membership was enough.
ROLE = """
SELECT set_config('role', rolname, false) FROM pg_roles
WHERE rolname = 'foldstream_app'
  AND pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
"""

FREE_SPACE = "Free some space on the disk of Postgres: then appends go through again, without a restart. Reads go on."

GLANCE = 0.5
"""Seconds that a caller waits for a connection while the server is known to be away."""


class Connections:
    """A pool. patience: seconds that one use may last, and that a caller may wait for a connection."""

    def __init__(self, dsn: str, *, smallest: int, largest: int, patience: float) -> None:
        self._patience = patience
        self._away = False
        self._dsn = dsn
        self._how: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": max(2, round(patience)),
            "application_name": "foldstream",
        }
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=smallest,
            max_size=largest,
            open=False,
            configure=self._configure,
            reconnect_timeout=1.0,  # give up soon; the next caller asks for a new attempt, however long the outage was
            kwargs=self._how,
        )

    async def open(self) -> None:
        """Start connecting; returns at once."""
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def dial(self) -> Connection:
        """A connection beside the pool, configured like the others; the caller closes it. Raises psycopg.Error."""
        connection = await AsyncConnection.connect(self._dsn, **self._how)
        try:
            await self._configure(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Connection]:
        """A connection for one use of at most `patience` seconds. Raises Unavailable if none can be had."""
        async with self._used(await self._checkout()) as connection:
            yield connection

    async def fetch(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows of one statement that only reads; a lost connection is tried again. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        while True:
            connection = await self._checkout()
            # In a task of its own: a caller who goes away must not cost the pool a connection in the middle of a query.
            once = self._fetch_once(connection, sql, params, last=loop.time() >= until)
            rows = await asyncio.shield(loop.create_task(once))
            if rows is not None:
                return rows

    async def _fetch_once(
        self, connection: Connection, sql: str, params: Any, *, last: bool
    ) -> list[tuple[Any, ...]] | None:
        """None: the connection was lost, try another."""
        async with self._used(connection):
            try:
                return await fetch(connection, sql, params)
            except psycopg.Error as error:
                if connection.closed and not last:
                    return None
                raise translate(error) from error

    @asynccontextmanager
    async def _used(self, connection: Connection) -> AsyncIterator[Connection]:
        try:
            with self._limited(connection):
                yield connection
        finally:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.close()  # the pool would try to mend it, and wait for a server that does not answer
            await asyncio.shield(self._pool.putconn(connection))

    @contextmanager
    def _limited(self, connection: Connection) -> Iterator[None]:
        clock = asyncio.get_running_loop().call_later(self._patience, cut, connection)
        try:
            yield
        finally:
            clock.cancel()

    async def _checkout(self) -> Connection:
        loop = asyncio.get_running_loop()
        until = loop.time() + (GLANCE if self._away else self._patience)
        while True:
            left = until - loop.time()
            try:
                # In short rounds: each round lets the pool try to connect again.
                connection = await self._pool.getconn(timeout=min(max(left, 0.05), 1.0))
            except PoolTimeout:
                if left > 0.05:
                    continue
                self._away = True
                raise Unavailable("Postgres gave no connection in time; nothing was sent to it") from None
            except PoolClosed:
                raise Unavailable("the store is closed; nothing was sent to Postgres") from None
            if not has_news(connection):
                self._away = False
                return connection
            await connection.close()
            await asyncio.shield(self._pool.putconn(connection))

    async def _configure(self, connection: Connection) -> None:
        millis = max(1, int(self._patience * 800))  # the server gives up first: then the outcome is known
        with self._limited(connection):
            await connection.execute(SETTINGS, {"statement": f"{millis}ms", "lock": f"{millis // 2}ms"})
            await connection.execute(ROLE)


async def fetch(connection: Connection, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
    """The rows of a prepared statement, in binary; text comes as bytes, as it is stored."""
    async with connection.cursor(binary=True) as cursor:
        cursor.adapters.register_loader("text", ByteaBinaryLoader)
        await cursor.execute(sql.encode(), params, prepare=True)
        return await cursor.fetchall()


def has_news(connection: Connection) -> bool:
    """The server said something although it was not asked: mostly that it is gone."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def cut(connection: Connection) -> None:
    """Shut the socket under the connection: whoever waits for an answer gets an error now."""
    with suppress(OSError, psycopg.Error):
        handle = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            handle.shutdown(socket.SHUT_RDWR)
        finally:
            handle.close()


def first_line(error: psycopg.Error) -> str:
    """What the server, or else the client library, says in its first line."""
    return (error.diag.message_primary or str(error) or type(error).__name__).strip().partition("\n")[0]


def translate(error: psycopg.Error, consequence: str = "") -> FoldstreamError:
    """What to tell the caller about an error of the database that left nothing recorded."""
    words = first_line(error)
    too_much = (error.sqlstate or "").startswith("54")  # program limits: too deep, too long for an index ...
    by_hand = isinstance(error, psycopg.errors.RaiseException)  # a check of somebody's own making
    if isinstance(error, (psycopg.DataError, psycopg.IntegrityError)) or too_much or by_hand:
        return Invalid(f"the database refused the data: {words}")
    if isinstance(error, psycopg.errors.DiskFull):
        return Unavailable(f"the disk of Postgres is full: {words}{consequence}", fix=FREE_SPACE)
    if isinstance(error, psycopg.ProgrammingError):
        words = f"the database is not as this release needs it ({words}): run `foldstream migrate`"
    return Unavailable(f"Postgres: {words}{consequence}")
