"""Arrays that are encoded here arrive in Postgres as they were."""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection

from eventstore.stores.arrays import Array, ArrayDumper, integers, texts, texts_if_any


async def test_arrays_arrive_as_they_were(database: str) -> None:
    numbers = [1, -(2**31), 2**31 - 1, 0]
    words = ["", "a", 'ä"{},\\NULL', "\U0001f389"]
    maybe = [None, "x", None]
    async with await psycopg.AsyncConnection.connect(database) as connection:
        connection.adapters.register_dumper(Array, ArrayDumper)
        assert await back(connection, "int[]", integers(numbers)) == numbers
        assert await back(connection, "text[]", texts([word.encode() for word in words])) == words
        assert await back(connection, "text[]", texts_if_any(maybe)) == maybe
        assert await back(connection, "text[]", texts_if_any([None, None])) is None


async def back(connection: AsyncConnection[tuple[object, ...]], kind: str, array: Array | None) -> object:
    [(found,)] = await (await connection.execute(f"SELECT %b::{kind}".encode(), [array])).fetchall()
    return found
