"""Lines: an express way to Postgres for the one statement that is asked over and over, the append of a batch.

Theory. For a small append the bytes cost nothing; what costs is to come by a connection, a cursor, a task, and to learn
and forget the socket in the event loop each time: 0.4 ms of CPU, twice as long as the commit. So a line keeps its
connection and its place in the event loop, has its statements prepared when it opens, and talks in callbacks:

    ask() hands the statement to the socket before it returns -> the answer arrives -> `heard` is called, at once

It is only an express way: whoever finds no line `free` takes a connection of the pool, which has patience, recovery
and words for everything. A line therefore keeps its own rules short:

- One question at a time. Its answer is a PGresult, the psycopg.Error by which the server refused it, or Dead.
- Dead, if the connection was lost after the question: nobody knows what became of it. After `patience` seconds
  without an answer the socket is cut, which is the same.
- A line whose connection is lost is opened again in the background, as soon as somebody asks for a free one.
- A connection that the server closed meanwhile is noticed before anything is asked of it.

It uses psycopg's public interface to libpq (`psycopg.pq`), on connections that psycopg has opened. Everything runs in
the event loop in which the line was opened; nothing is awaited between finding a line free and asking.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from eventstore.errors import FoldstreamError
from eventstore.stores.connections import Connection, cut

log = logging.getLogger(__name__)


class Dead(Exception):
    """The connection was lost between the question and its answer."""


Param = bytes | None
Answer = PGresult | psycopg.Error | Dead
Heard = Callable[[Answer], None]

_BINARY = [int(Format.BINARY)] * 16
_GOOD = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Line:
    """One connection and the question that is on its way. Opened by `Lines`."""

    def __init__(self, connection: Connection, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._pg: PGconn = connection.pgconn
        self._pg.nonblocking = 1
        self._patience = patience
        self._heard: Heard | None = None
        self._answer: Answer | None = None
        self._until = 0.0
        self._clock: asyncio.TimerHandle | None = None
        self._writing = False
        self._socket = self._pg.socket
        self._news = select.poll()
        self._news.register(self._socket, select.POLLIN)
        self._loop.add_reader(self._socket, self._read)

    @property
    def open(self) -> bool:
        """It has a connection, as far as is known."""
        return self._pg.status == ConnStatus.OK

    def free(self) -> bool:
        """It can be asked now. Looks at the socket: an idle server says something only when it goes away."""
        if self._heard is not None or self._pg.status != ConnStatus.OK:
            return False
        if self._news.poll(0):
            self._read()
        return self._pg.status == ConnStatus.OK

    def ask(self, statement: bytes, params: Sequence[Param], heard: Heard) -> None:
        """Run a prepared statement; parameters and answer in binary. ``heard`` is called once, after this returned."""
        self._begin(heard)
        try:
            self._pg.send_query_prepared(statement, params, _BINARY[: len(params)], 1)
            self._write()
        except psycopg.Error as error:
            self._loop.call_soon(self._shut, str(error))

    async def prepare(self, statement: bytes, sql: bytes) -> None:
        """Let the server parse ``sql`` once and for all. Raises psycopg.Error, or Dead."""
        answered: asyncio.Future[Answer] = self._loop.create_future()

        def heard(answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        self._begin(heard)
        try:
            self._pg.send_prepare(statement, sql)
            self._write()
        except psycopg.Error as error:
            self._shut(str(error))
        answer = await answered
        if isinstance(answer, Exception):
            raise answer

    def close(self) -> None:
        """Hang up. Whoever waits for an answer hears that the line is dead."""
        self._shut("the line was closed")

    def _begin(self, heard: Heard) -> None:
        self._heard = heard
        self._answer = None
        self._until = self._loop.time() + self._patience
        if self._clock is None:
            self._clock = self._loop.call_at(self._until, self._look)

    def _look(self) -> None:
        """The clock, which runs on from question to question: setting it for each took as long as sending it."""
        self._clock = None
        if self._heard is None:
            return
        if self._loop.time() >= self._until:
            cut(self._connection)
        else:
            self._clock = self._loop.call_at(self._until, self._look)

    def _write(self) -> None:
        """Hand over what the socket takes; the rest when it takes more."""
        try:
            is_done = self._pg.flush() == 0
        except psycopg.Error as error:
            self._loop.call_soon(self._shut, str(error))
            return
        if is_done and self._writing:
            self._loop.remove_writer(self._socket)
        elif not is_done and not self._writing:
            self._loop.add_writer(self._socket, self._write)
        self._writing = not is_done

    def _read(self) -> None:
        """The socket has something to read, also when nothing was asked."""
        pg = self._pg
        is_complete = False
        try:
            pg.consume_input()
            if self._writing:  # the server may have to be heard before it listens again
                self._write()
            if self._heard is None:
                if pg.status != ConnStatus.OK:
                    self._shut("the server closed the connection")
                return
            while not is_complete and not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    is_complete = True
                elif result.status not in _GOOD:
                    # The commit comes after the rows: an error now, of a deferred check say, takes them back.
                    self._answer = error_from_result(result)
                elif self._answer is None:
                    self._answer = result
        except psycopg.Error as error:
            self._shut(str(error))
            return
        if not is_complete:
            return
        if pg.status != ConnStatus.OK or self._answer is None:
            self._shut(str(self._answer or "no answer"))
        else:
            self._tell(self._answer)

    def _shut(self, why: str) -> None:
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            if self._writing:
                self._loop.remove_writer(self._socket)
            self._socket, self._writing = -1, False
            self._pg.finish()
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        self._tell(Dead(why.strip().partition("\n")[0]))

    def _tell(self, answer: Answer) -> None:
        heard, self._heard, self._answer = self._heard, None, None
        if heard is not None:
            heard(answer)


class Lines:
    """``count`` lines, as far as they can be had.

    dial        gives a connection, configured.
    statements  what is prepared on each line: name -> SQL with $1, $2 ...
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[Connection]],
        statements: Mapping[bytes, bytes],
        *,
        count: int,
        patience: float,
    ) -> None:
        self._dial = dial
        self._statements = statements
        self._count = count
        self._patience = patience
        self._lines: list[Line] = []
        self._opening: asyncio.Task[None] | None = None
        self._failing = False
        self._closed = False

    async def open(self) -> None:
        """Open all lines. Those that cannot be opened now are tried again when they are needed."""
        self._reopen()
        if self._opening is not None:
            await asyncio.wait([self._opening])

    async def close(self) -> None:
        """Hang up everywhere."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for line in self._lines:
            line.close()
        self._lines.clear()

    def free(self) -> Line | None:
        """A line that can be asked now, before anything is awaited."""
        found = None
        whole = 0
        for line in self._lines:
            if found is None and line.free():
                found = line
            whole += line.open
        if whole < self._count:
            self._reopen()
        return found

    def _reopen(self) -> None:
        if self._opening is None and not self._closed:
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        """Boundary of the attempt to open lines: its failure is told once in the log; the pool tells the callers."""
        try:
            self._lines = [line for line in self._lines if line.open]
            while len(self._lines) < self._count:
                self._lines.append(await self._line())
            self._failing = False
        except (psycopg.Error, Dead, FoldstreamError) as error:
            log.log(logging.DEBUG if self._failing else logging.INFO, "no express line to Postgres: %s", error)
            self._failing = True
        finally:
            self._opening = None

    async def _line(self) -> Line:
        line = Line(await self._dial(), self._patience)
        try:
            for name, sql in self._statements.items():
                await line.prepare(name, sql)
        except BaseException:
            line.close()
            raise
        return line
