"""Arrays that are encoded here arrive in Postgres as they were, and those that Postgres sends are read here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.string import ByteaBinaryLoader

from eventstore.stores import arrays

Sql = AsyncConnection[Any]

NUMBERS = [1, -(2**31), 2**31 - 1, 0]
WORDS = ["", "a", 'ä"{},\\NULL', "\U0001f389"]
MOMENTS = [
    datetime(1969, 7, 20, 20, 17, 40, 123457, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 2, 28, 12, tzinfo=timezone(timedelta(hours=-7, minutes=-30))),
]


class Encoded(bytes):
    """A parameter that is in the binary format of Postgres already."""


class AsItIs(Dumper):
    format = Format.BINARY

    def dump(self, obj: Encoded) -> Encoded:
        return obj


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    async with await psycopg.AsyncConnection.connect(database, options="-c TimeZone=UTC") as connection:
        connection.adapters.register_dumper(Encoded, AsItIs)
        yield connection


@pytest.mark.parametrize(
    ("kind", "encoded", "meant"),
    [
        ("int[]", arrays.integers(NUMBERS), NUMBERS),
        ("int[]", arrays.integers_if_any([None, 0, -5]), [None, 0, -5]),
        ("int[]", arrays.integers_if_any([None, None]), None),
        ("text[]", arrays.texts([word.encode() for word in WORDS]), WORDS),
        ("text[]", arrays.texts_if_any([None, "x", None]), [None, "x", None]),
        ("text[]", arrays.texts_if_any([None, None]), None),
        ("timestamptz[]", arrays.times_if_any([*MOMENTS, None]), [*MOMENTS, None]),
        ("timestamptz[]", arrays.times_if_any([None]), None),
        ("timestamptz", arrays.time(MOMENTS[0]), MOMENTS[0]),
    ],
    ids=str,
)
async def test_what_is_encoded_here_arrives_as_it_was(
    sql: Sql, kind: str, encoded: bytes | None, meant: object
) -> None:
    given = None if encoded is None else Encoded(encoded)
    cursor = psycopg.AsyncRawCursor(sql)
    [(found,)] = await (await cursor.execute(f"SELECT $1::{kind}".encode(), [given])).fetchall()
    assert found == meant


async def test_what_postgres_sends_is_read_here(sql: Sql) -> None:
    for oid in (1007, 1016, 1184):  # integer[], bigint[], timestamptz
        sql.adapters.register_loader(oid, ByteaBinaryLoader)
    cursor = sql.cursor(binary=True)
    await cursor.execute("SELECT %s::int[], %s::bigint[], %s::timestamptz", (NUMBERS, [2**63 - 1, -1], MOMENTS[0]))
    [(integers, bigints, moment)] = await cursor.fetchall()
    assert list(arrays.integers_of(integers)) == NUMBERS
    assert list(arrays.bigints_of(bigints)) == [2**63 - 1, -1]
    assert arrays.time_of(moment) == MOMENTS[0]
