"""PostgresCursors: what somebody does to the table behind their back. The contract: tests/contract/test_followers.py"""

from __future__ import annotations

import psycopg

from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.postgres import PostgresStore


async def test_a_follower_whose_row_was_deleted_follows_from_the_beginning(database: str) -> None:
    async with PostgresStore(database) as store:
        cursors = PostgresCursors(store.connections)
        assert await cursors.claim("x", "me", 60) is not None
        assert await cursors.claim("x", "another", 60) is None
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
            await owner.execute("DELETE FROM followers")
        held = await cursors.claim("x", "another", 60)
        assert held is not None
        assert held.cursor == (0, 0)
