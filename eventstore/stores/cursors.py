"""PostgresCursors: where followers stand, in the table ``followers``. See `eventstore.follower` for the theory."""

from __future__ import annotations

from typing import Any

import psycopg

from eventstore.event import Position
from eventstore.follower import Held, Superseded
from eventstore.store import Also
from eventstore.stores.connections import Connections, fetch, translate

MAKE = "INSERT INTO followers (name) VALUES (%s) ON CONFLICT DO NOTHING RETURNING true"

# Where somebody else holds the lease this reads one row and writes nothing.
CLAIM = """
WITH held AS (
    UPDATE followers SET owner = %(owner)s, leased_to = clock_timestamp() + make_interval(secs => %(seconds)s)
    WHERE name = %(name)s AND (owner = %(owner)s OR leased_to < clock_timestamp())
    RETURNING tx, position
)
SELECT h.tx::text::bigint, h.position, coalesce(e.tx, h.tx)::text::bigint, coalesce(e.position, h.position)
FROM held h
LEFT JOIN LATERAL (SELECT tx, position FROM events e ORDER BY e.tx DESC, e.position DESC LIMIT 1) e ON true
"""

SAVE = """
UPDATE followers
SET tx = %(tx)s::text::xid8, position = %(position)s, moved_at = clock_timestamp(),
    leased_to = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND owner = %(owner)s AND tx = %(old_tx)s::text::xid8 AND position = %(old_position)s::bigint
RETURNING true
"""

RELEASE = "UPDATE followers SET owner = '', leased_to = '-infinity' WHERE name = %s AND owner = %s"


class PostgresCursors:
    """`Cursors` over ``connections``."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def claim(self, name: str, owner: str, seconds: float) -> Held | None:
        """See `Cursors.claim`."""
        asked = {"name": name, "owner": owner, "seconds": float(seconds)}
        rows = await self._connections.fetch(CLAIM, asked)
        # Somebody else holds it; or there is no row yet, or no more.
        if not rows and await self._connections.fetch(MAKE, (name,)):
            rows = await self._connections.fetch(CLAIM, asked)
        return Held(Position(*rows[0][:2]), Position(*rows[0][2:])) if rows else None

    async def save(
        self, name: str, owner: str, seconds: float, before: Position, after: Position, also: Also | None = None
    ) -> None:
        """See `Cursors.save`. ``also`` gets the psycopg connection, in a transaction."""
        asked: dict[str, Any] = {"name": name, "owner": owner, "seconds": float(seconds)}
        asked |= {"tx": after.transaction, "position": after.number}
        asked |= {"old_tx": before.transaction, "old_position": before.number}
        async with self._connections.take() as connection:
            try:
                async with connection.transaction():
                    # First, and under its row's lock: whoever wants the lease has to wait for the end of this.
                    if not await fetch(connection, SAVE, asked):
                        raise Superseded(f"{owner} does not follow {name} any more")
                    if also is not None:
                        await also(connection)
            except psycopg.Error as error:
                raise translate(error) from error

    async def release(self, name: str, owner: str) -> None:
        """See `Cursors.release`."""
        await self._run(RELEASE, (name, owner))

    async def _run(self, sql: str, params: tuple[str, ...]) -> None:
        async with self._connections.take() as connection:
            try:
                await connection.execute(sql.encode(), params)
            except psycopg.Error as error:
                raise translate(error) from error
