"""PostgresStore: the log in Postgres. See `schema.sql` for the theory of its order, `batch` for that of its commits.

append -> admit -> Writer (queue, batches) -> a commit -> announce -> the callers' answers
The commit: append_new() over an express line, as if nothing could be in the way; when something is, or no line is free,
append_events() on a connection of the pool.
read, render, read_all, heads, recent: one statement each, on any connection of the pool
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType

import psycopg

from eventstore.admit import MAX_DATA_BYTES, admit
from eventstore.errors import CannotStart, FoldstreamError, Unavailable
from eventstore.event import START, Event, NewEvent, Position, StreamId
from eventstore.page import PAGE, Rendered, Span, rendered
from eventstore.shape import Shape
from eventstore.store import Also, Announce, Listed
from eventstore.stores import lean, pages, statements
from eventstore.stores.connections import Connection, Connections, fetch, first_line, translate
from eventstore.stores.lean import Dead, Lines
from eventstore.stores.statements import Places, Recorded, Row
from eventstore.stores.writer import Answer, Lost, Outcome, Pending, Refused, Writer
from eventstore.upcast import is_old, lifted

log = logging.getLogger(__name__)

MOST_SEEN = 100_000
"""Names of streams that are kept in memory, about 20 MB."""

FLIGHTS = 2
"""Batches on their way at the same time, and lines for them."""

EXPRESS = {b"append_new": statements.APPEND_NEW, b"append_one": statements.APPEND_ONE}

NOTHING = "; nothing was recorded"


def silent(events: Sequence[Event]) -> None:
    """Announces to nobody."""


class PostgresStore:
    """`Log`, `Index` and `Keeper` over the Postgres at ``dsn``, which `migrate` has prepared. Use ``async with``.

    announce         is called with new events after their commit, in order of version for each stream.
    max_data_bytes   the most that the data of one event may take, encoded.
    smallest, largest  connections that are kept, and that are opened at most. Two of them, or half of a few, only
                     append.
    patience         seconds: what takes longer is given up with Unavailable. A call may wait twice: for its turn and
                     for the database.
    """

    def __init__(
        self,
        dsn: str,
        *,
        announce: Announce = silent,
        max_data_bytes: int = MAX_DATA_BYTES,
        smallest: int = 2,
        largest: int = 8,
        patience: float = 5.0,
    ) -> None:
        self._announce = announce
        self._max_data_bytes = max_data_bytes
        express = min(FLIGHTS, largest // 2)
        pooled = largest - express
        self._connections = Connections(dsn, smallest=min(smallest, pooled), largest=pooled, patience=patience)
        self._lines = Lines(self._connections.dial, EXPRESS, count=express, patience=patience)
        self._writer = Writer(self._commit, self._begin, flights=FLIGHTS, lanes=max(1, pooled // 2), patience=patience)
        self._is_ours: bool | None = None
        self._seen: set[StreamId] = set()  # streams that exist: no append has to look whether they do

    async def open(self) -> None:
        """Connect. Raises Unavailable when Postgres does not answer, CannotStart when it holds no log."""
        await self._connections.open()
        try:
            [(is_ready,)] = await self._connections.fetch(statements.IS_READY)
            if not is_ready:
                raise CannotStart("the database has no log in it", fix="Run `foldstream migrate`.")
            await self._lines.open()
        except BaseException:
            await self._connections.close()
            raise

    @property
    def connections(self) -> Connections:
        """The pool, for what stands beside the log in the same database: snapshots and cursors."""
        return self._connections

    async def close(self) -> None:
        """Finish the appends that wait, then disconnect."""
        await self._writer.close()
        await self._lines.close()
        await self._connections.close()

    async def __aenter__(self) -> PostgresStore:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def append(
        self, stream: StreamId, events: Sequence[NewEvent], *, expected: int | None = None, also: Also | None = None
    ) -> list[Event]:
        """See `Store.append`. ``also`` gets the psycopg connection, in a transaction, acting as `foldstream_app`."""
        drafts = admit(stream, events, max_data_bytes=self._max_data_bytes)
        return await self._writer.write(Pending(stream, drafts, expected, alone=also is not None, also=also))

    async def read(
        self,
        stream: StreamId,
        after: int = 0,
        limit: int = PAGE,
        *,
        before: int | None = None,
        types: Sequence[str] = (),
        backward: bool = False,
    ) -> list[Event]:
        """See `Store.read`."""
        sql = pages.read(types=bool(types), backward=backward)
        rows = await self._connections.fetch(sql, pages.asked(stream, Span(after, limit, before, types, backward)))
        return lifted([statements.event_of(stream, row) for row in rows])

    async def render(self, stream: StreamId, shape: Shape, span: Span) -> Rendered:
        """See `Renderer.render`. The server writes the page; only one with events of an old schema is written here."""
        frame, literals = pages.frame(shape)
        sql = pages.render(frame, types=bool(span.types), backward=span.backward)
        rows = await self._connections.fetch(sql, {**pages.asked(stream, span), **literals})
        if not rows:
            return rendered((), shape, span, 0, 0)
        [(floor, head, found, count, last, schema, body)] = rows
        if is_old(stream, schema):
            after, before = span.bounds(head)
            read = self.read(stream, after, span.limit, before=before, types=span.types, backward=span.backward)
            return rendered(await read, shape, span, floor, head)
        return Rendered(body or b"", count, span.reached(last, head, whole=found == count < span.limit), floor, head)

    async def read_all(self, after: Position = START, limit: int = PAGE) -> list[Event]:
        """See `Store.read_all`. An open transaction that writes, in any database of the server, holds events back.

        Raises CannotStart for a log that was restored into another cluster, where transactions are numbered anew.
        """
        if self._is_ours is None:
            [(foreign,)] = await self._connections.fetch(statements.FROM_ANOTHER_CLUSTER)
            self._is_ours = not foreign
        if not self._is_ours:
            raise CannotStart(
                "the log comes from a cluster that numbered its transactions higher: read_all would stand still",
                fix="Restore a physical copy of the cluster (pg_basebackup), not a dump. Single streams read as ever.",
            )
        rows = await self._connections.fetch(statements.READ_ALL, (after.transaction, after.number, limit))
        return lifted([statements.event_of(StreamId(row[0].decode(), row[1].decode()), row[2:]) for row in rows])

    async def heads(self, streams: Iterable[StreamId]) -> Mapping[StreamId, int]:
        """See `Store.heads`."""
        asked = list(streams)
        names = ([stream.category for stream in asked], [stream.id for stream in asked])
        rows = await self._connections.fetch(statements.HEADS, names) if asked else []
        return {asked[number - 1]: version for number, version in rows}

    async def recent(self, category: str, limit: int = 100, before: StreamId | None = None) -> list[Listed]:
        """See `Index.recent`."""
        asked = {"category": category, "before": before.id if before else None, "limit": limit}
        rows = await self._connections.fetch(statements.RECENT, asked)
        return [Listed(StreamId(category, id_.decode()), head, statements.utc(born)) for id_, head, born in rows]

    async def seal(self, stream: StreamId) -> int:
        """See `Keeper.seal`."""
        [(version,)] = await self._connections.fetch(statements.SEAL, (stream.category, stream.id))
        return version or 0

    async def epoch(self) -> str:
        """See `Index.epoch`."""
        [(epoch,)] = await self._connections.fetch(statements.EPOCH)
        return str(epoch.decode())

    async def ping(self) -> None:
        """See `Index.ping`."""
        await self._connections.fetch("SELECT 1")

    async def _commit(self, groups: Sequence[Pending]) -> list[Answer]:
        """Write these appends in one transaction, then announce what is new: the writer's `Commit`."""
        async with self._connections.take() as connection:
            if groups[0].also is not None:
                found = await self._record_with(connection, groups[0], groups[0].also)
            else:
                try:
                    found = await _record(connection, groups)
                except psycopg.Error as error:
                    if connection.closed:
                        raise Lost(f"Postgres: {first_line(error)}") from error
                    raise Refused(translate(error, NOTHING)) from error
        return self._answers(groups, found)

    def _begin(self, groups: Sequence[Pending], heard: _Heard) -> bool:
        """The writer's `Begin`: as if nothing could be in the way."""
        line = self._lines.free()
        if line is None or any(group.doubtful for group in groups):
            return False
        if len(groups) == 1 and len(groups[0].drafts) == 1 and groups[0].stream in self._seen:
            line.ask(b"append_one", statements.append_one_arguments(groups[0]), partial(self._one, groups[0], heard))
            return True
        places = statements.places(groups)
        unsure = not self._seen.issuperset(places.streams)
        parameters = statements.append_new_arguments(groups, places, unsure=unsure)
        line.ask(b"append_new", parameters, partial(self._all, groups, places, heard))
        return True

    def _one(self, group: Pending, heard: _Heard, answer: lean.Answer) -> None:
        self._pass_on([group], heard, answer, lambda row: [statements.one_recorded(group, row)])

    def _all(self, groups: Sequence[Pending], places: Places, heard: _Heard, answer: lean.Answer) -> None:
        def understood(row: Sequence[bytes]) -> Sequence[_Found]:
            found = statements.all_recorded(groups, places, row)
            if len(self._seen) > MOST_SEEN:
                self._seen.clear()
            self._seen.update(places.streams)
            return found

        self._pass_on(groups, heard, answer, understood)

    def _pass_on(
        self,
        groups: Sequence[Pending],
        heard: _Heard,
        answer: lean.Answer,
        understood: Callable[[Sequence[bytes]], Sequence[_Found]],
    ) -> None:
        """What an express line has brought; what is new is announced."""
        outcome: Outcome | None
        if isinstance(answer, Dead):
            outcome = Lost(f"Postgres: {answer}")
        elif isinstance(answer, psycopg.Error):
            refusal = Refused(translate(answer, NOTHING))
            outcome = None if answer.sqlstate in statements.IN_THE_WAY else refusal
        else:
            try:
                row = [answer.get_value(0, column) or b"" for column in range(answer.nfields)]
                outcome = self._answers(groups, understood(row))
            except Exception as bug:  # noqa: BLE001 - boundary: one write; the writer logs it and tells its callers
                outcome = bug
        heard(outcome)

    def _answers(self, groups: Sequence[Pending], found: Sequence[_Found]) -> list[Answer]:
        """Announce what is new."""
        news = [
            event
            for group, result in zip(groups, found, strict=True)
            if isinstance(result, Recorded)
            for event in (result.events if group.doubtful else result.fresh)
        ]
        if news:
            self._tell(news)
        return [result.events if isinstance(result, Recorded) else result for result in found]

    async def _record_with(self, connection: Connection, group: Pending, also: Also) -> Sequence[_Found]:
        """One append and the work that joins its transaction."""
        ending = False
        try:
            async with connection.transaction():
                [found] = await _record(connection, [group])
                if isinstance(found, Recorded) and found.fresh:
                    try:
                        await also(connection)
                    except Exception as error:
                        raise _Joined(error) from error
                ending = True
        except _Joined as joined:
            if connection.closed:
                raise Unavailable(f"Postgres: the connection was lost{NOTHING}") from joined.error
            if isinstance(joined.error, psycopg.OperationalError):  # a time limit, a full disk: not the caller's fault
                return [translate(joined.error, NOTHING)]
            return [joined.error]
        except psycopg.Error as error:
            if connection.closed and ending:
                raise Lost(f"Postgres: {first_line(error)}") from error
            raise Refused(translate(error, NOTHING)) from error
        return [found]

    def _tell(self, events: Sequence[Event]) -> None:
        try:
            self._announce(events)
        except Exception:  # boundary: announcing; the events are recorded, and viewers find them in the log
            log.exception("announcing %d events failed", len(events))


_Found = Recorded | FoldstreamError | Exception
_Heard = Callable[[Outcome | None], None]


class _Joined(Exception):
    """The work that joins an append's transaction failed."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


async def _record(connection: Connection, groups: Sequence[Pending]) -> list[Recorded | FoldstreamError]:
    rows = await fetch(connection, statements.APPEND, statements.append_arguments(groups))
    return statements.outcomes(groups, [Row(*row) for row in rows])
