"""What only SQL can put into the log, and what an upcast lifts, as both interpreters of a shape write it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from eventstore import BY_NAME, NewEvent, StreamId
from eventstore.page import Span, rendered
from eventstore.stores.memory import MemoryStore
from eventstore.stores.postgres import PostgresStore
from streaming import wire

BUILD = StreamId("build", "27")
PRETTY = '{\n  "a": [1,\r\n 2],\r"b": "one\\nline",\t"c": "\u2028 \u0085 日本"\n}'


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(database) as opened:
        yield opened


async def test_json_that_sql_wrote_over_several_lines_stays_one_frame(store: PostgresStore, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute(
            "SELECT append_event('build-27', 'status', %s, p_request_id => %s)", (PRETTY, "a\"b\\c'd")
        )
    [event] = await store.read(BUILD)
    assert event.json.decode() == PRETTY, "the stored bytes are as they were"
    for shape in (wire.sse_shape(BUILD), wire.update_shape(BUILD), wire.LINE, wire.LISTED):
        page = await store.render(BUILD, shape, Span())
        assert page == rendered([event], shape, Span(), 0, 1)
    frame = (await store.render(BUILD, wire.sse_shape(BUILD), Span())).body
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame
    shown = json.loads(frame.split(b"data: ")[1])
    assert (shown["data"], shown["requestId"]) == (json.loads(PRETTY), "a\"b\\c'd")


async def test_a_session_in_another_time_zone_writes_utc(store: PostgresStore, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        name = urlsplit(database).path.lstrip("/")
        await owner.execute(f"ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'".encode())
    async with PostgresStore(database) as late:
        at = datetime(2025, 7, 22, 7, 15, 20, 107_999, tzinfo=UTC)
        await late.append(BUILD, [NewEvent("status", at=at)])
        assert b'"timestamp":"2025-07-22T07:15:20.107Z"' in (await late.render(BUILD, wire.LINE, Span())).body


@pytest.fixture(params=["memory", "postgres"])
async def any_store(request: pytest.FixtureRequest, store: PostgresStore) -> Any:
    return store if request.param == "postgres" else MemoryStore()


async def test_every_reader_gets_todays_shape_of_an_old_event(any_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build = BY_NAME["build"]
    await any_store.append(BUILD, [NewEvent("custom", {"old": 1}), NewEvent("custom", {"old": 2})])

    def lift(type_: str, data: Any) -> tuple[str, Any]:
        return f"{type_}.lifted", {"new": data["old"]}

    assert build.schema == 1
    monkeypatch.setitem(BY_NAME, "build", replace(build, schema=2, upcasts={1: lift}))
    await any_store.append(BUILD, [NewEvent("custom", {"new": 3})])
    found = await any_store.read(BUILD)
    facts = [(event.type, event.data, event.schema) for event in found]
    assert facts == [("custom.lifted", {"new": 1}, 2), ("custom.lifted", {"new": 2}, 2), ("custom", {"new": 3}, 2)]
    for span in (Span(), Span(1), Span(0, 2, backward=True), Span(0, 1), Span(types=["custom"])):
        page = await any_store.render(BUILD, wire.LINE, span)
        after, limit, before, types, backward = span
        read = await any_store.read(BUILD, after, limit, before=before, types=types, backward=backward)
        assert page == rendered(read, wire.LINE, span, 0, 3)
    current = await any_store.render(BUILD, wire.LINE, Span(2))
    assert json.loads(current.body)["data"] == {"new": 3}
    assert [(event.type, event.schema) for event in await any_store.read_all()][:1] in ([("custom.lifted", 2)], [])
