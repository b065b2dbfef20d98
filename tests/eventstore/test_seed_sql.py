"""The old documents' SQL over tasks and webhooks, as printed, on the views. (Over builds: test_schema.py.)"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from eventstore import NewEvent, StreamId
from eventstore.categories import task
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BUILD_27
from tests.eventstore.test_task_fold import FT
from tests.projection import projecting, snapshots_of, until_projected

Sql = AsyncConnection[Any]
TASK = StreamId("task", "abc-123")

LATEST = """
SELECT 
    id,
    type,
    current_status,
    result_data->'progress'->-1->>'message' as latest_progress,
    result_data->'progress'->-1->>'timestamp' as latest_timestamp
FROM tasks
WHERE id = 'your-task-id';
"""  # noqa: W291
EVERY = """
SELECT 
    id,
    type,
    jsonb_array_elements(result_data->'progress') as progress_update
FROM tasks
WHERE id = 'your-task-id';
"""  # noqa: W291
COUNTS = """
SELECT 
    id,
    type,
    current_status,
    jsonb_array_length(result_data->'progress') as progress_steps
FROM tasks
WHERE result_data->'progress' IS NOT NULL
ORDER BY created_at DESC;
"""  # noqa: W291
DUE = "SELECT * FROM webhook_failures WHERE retry_at < NOW() AND attempts < 5"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Sql]:
    """What the application may do."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute("SET ROLE foldstream_app")
        yield connection


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(database) as opened, projecting(opened, snapshots_of(opened)):
        yield opened


async def rows(sql: Sql, printed: str) -> list[dict[str, Any]]:
    return await (await sql.execute(printed.replace("your-task-id", "abc-123").encode())).fetchall()


async def record(store: PostgresStore, stream: StreamId, events: list[NewEvent]) -> None:
    recorded = await store.append(stream, events)
    await until_projected(snapshots_of(store), stream, recorded[-1].version)


def documented() -> list[NewEvent]:
    return [NewEvent(e["type"], e["data"], at=datetime.fromisoformat(e["timestamp"])) for e in FT["events"]]


@pytest.mark.req("S4-15", "S4-16", "S4-17", "S4-18", "N-06")
async def test_the_tasks_sql_as_printed(sql: Sql, store: PostgresStore) -> None:
    await record(store, TASK, documented())
    await record(store, StreamId("task", "younger"), [NewEvent("task_created", {"type": "uber_ride"})])
    assert await rows(sql, LATEST) == [
        {
            "id": "abc-123",
            "type": "shopify_order",
            "current_status": "completed",
            "latest_progress": "Order placed successfully",
            "latest_timestamp": "2025-11-23T10:00:25.890123Z",
        }
    ]
    updates = await rows(sql, EVERY)
    assert [row["progress_update"]["message"] for row in updates] == [one["message"] for one in FT["progress"]]
    assert [(row["id"], row["type"], row["progress_steps"]) for row in await rows(sql, COUNTS)] == [
        ("younger", "uber_ride", 0),
        ("abc-123", "shopify_order", 8),
    ]


@pytest.mark.req("S4-21")
async def test_the_row_of_a_task_is_what_the_api_answers(sql: Sql, store: PostgresStore) -> None:
    failed = [NewEvent("task_started", {"worker": "w-1"}), NewEvent("task_failed", {"error": "Out of stock"})]
    for stream, events in ((TASK, documented()), (StreamId("task", "sad"), failed)):
        await record(store, stream, events)
        recorded = await store.read(stream)
        answer = task.old_view(stream.id, task.CATEGORY.fold(recorded))
        [row] = [row for row in await rows(sql, "SELECT * FROM tasks") if row["id"] == stream.id]
        assert row.pop("id") == answer["task_id"]
        for name, value in row.items():
            is_time = isinstance(value, datetime)
            assert value == (datetime.fromisoformat(answer[name]) if is_time else answer[name]), name
    assert row["error_message"] == "Out of stock"


@pytest.mark.req("N-06")
async def test_a_list_of_tasks_reads_no_event(sql: Sql, store: PostgresStore) -> None:
    await record(store, TASK, documented())
    for printed in (LATEST, EVERY, COUNTS):
        plan = "\n".join(row["QUERY PLAN"] for row in await rows(sql, f"EXPLAIN {printed}"))
        assert "states" in plan
        assert "events" not in plan


@pytest.mark.req("S1-24")
async def test_the_webhooks_sql_as_printed(sql: Sql, store: PostgresStore) -> None:
    await record(store, BUILD_27, [NewEvent("custom", {"n": 1})])
    await sql.execute(
        """INSERT INTO webhook_deliveries (sid, version, attempts, retry_at, state)
           SELECT sid, 1, attempts, now() + minutes * interval '1 minute', state FROM streams, (VALUES
               (0, -1, 'pending'), (4, -1, 'pending'), (5, -1, 'pending'), (0, 1, 'pending'), (1, NULL, 'delivered'),
               (5, NULL, 'dead')) AS v (attempts, minutes, state)"""
    )
    found = await rows(sql, DUE)
    assert [list(row) for row in found] == [
        ["id", "build_id", "event_type", "payload", "attempts", "retry_at", "created_at"]
    ] * 2
    assert [(row["build_id"], row["event_type"], row["attempts"]) for row in found] == [
        ("27", "custom", 0),
        ("27", "custom", 4),
    ]
    payload = found[0]["payload"]
    assert {name: payload[name] for name in ("buildId", "id", "type")} == {"buildId": "27", "id": 1, "type": "custom"}
    assert payload["data"]["n"] == 1
