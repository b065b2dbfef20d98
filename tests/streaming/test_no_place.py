"""Cursors that are no place in the log: retention took their events, or the log is another one. Over all transports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import psycopg
import pytest

from eventstore import StreamId
from eventstore.stores.postgres import PostgresStore
from foldstream import client as client_module
from foldstream.client import Client
from streaming.cursor import PAST_THE_END, reset
from tests.serving import Announcer, Served, connected, frames, serving

BUILD = StreamId("build", "27")
RETENTION = {"reason": "retention", "floor": 3}


@pytest.fixture
async def served(database: str) -> AsyncIterator[Served]:
    announcer = Announcer()
    async with PostgresStore(database, announce=announcer) as store, serving(store, announcer) as served:
        yield served


async def drop_all(database: str) -> None:
    """As retention does it: the streams are sealed, their floor is their head, and the events go."""
    async with await psycopg.AsyncConnection.connect(database) as owner:
        await owner.execute("UPDATE streams SET floor = version, sealed_at = clock_timestamp()")
        await owner.execute("ALTER TABLE events DETACH PARTITION events_1")


async def put_back(database: str, version: int) -> None:
    """An older backup, in which the build had come to ``version``."""
    async with await psycopg.AsyncConnection.connect(database) as owner:
        await owner.execute("ALTER TABLE events_1 DISABLE TRIGGER ALL")
        await owner.execute("DELETE FROM events_1 WHERE version > %s", (version,))
        await owner.execute("UPDATE streams SET version = %s", (version,))


async def follow_sse(served: Served, cursor: int) -> list[tuple[str, Any]]:
    headers = {"Last-Event-ID": str(cursor)} if cursor else {}
    with anyio.fail_after(10):
        return [
            (frame.get("event", "message"), json.loads(frame["data"]))
            async for frame in frames(served.client, "/events/27", **headers)
        ]


@pytest.mark.pure
@pytest.mark.parametrize(
    ("cursor", "floor", "head", "place"),
    [(0, 0, 0, None), (0, 0, 5, None), (5, 0, 5, None), (3, 3, 3, None), (3, 3, 5, None), (2, 3, 3, 3), (6, 0, 5, 0)],
)
def test_a_cursor_is_a_place_in_the_log_or_is_told_where_to_go_on(
    cursor: int, floor: int, head: int, place: int | None
) -> None:
    told = reset(cursor, floor, head)
    assert (told and told["lastEventId"]) == place


@pytest.mark.parametrize("cursor", [0, 1, 2])
async def test_below_the_floor_everybody_is_told_once_and_nobody_waits(
    served: Served, database: str, cursor: int
) -> None:
    await served.append("27", "plan_started", "status", "status")
    await drop_all(database)

    answer = (await served.client.get(f"/api/builds/27/events?lastEventId={cursor}&wait=20", timeout=5)).json()
    assert answer == {
        "buildId": "27", "events": [], "lastEventId": 3, "reset": RETENTION, "epoch": "epoch-of-the-test"
    }  # fmt: skip
    lines = await served.client.get(
        f"/api/builds/27/events?lastEventId={cursor}", headers={"Accept": "application/x-ndjson"}
    )
    assert (lines.text, lines.headers["last-event-id"]) == ("", "3")

    told = await follow_sse(served, cursor)
    assert [name for name, _ in told] == ["connected", "reset", "closed"]
    assert told[1][1] == {"type": "reset", **RETENTION, "lastEventId": 3}
    assert told[2][1]["lastEventId"] == 3
    again = await served.client.get("/events/27", headers={"Last-Event-ID": "3"})
    assert b"reset" not in again.content, "a browser that comes back from the id of the reset is not told again"

    async with connected(served.url) as sio:
        ack = await sio.client.call("subscribe", {"buildId": "27", "lastEventId": cursor})
        closed = await sio.until_event("closed")
        assert ack["ok"] is True
        assert ack["reset"] == {"type": "reset", **RETENTION, "lastEventId": 3}
        assert closed["lastEventId"] == 3
        assert [name for name, _ in sio.received] == ["connected", "reset", "closed"]


@pytest.mark.parametrize("transport", ["sse", "polling"])
async def test_our_own_client_is_told_and_comes_to_an_end(
    served: Served, database: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.append("27", "plan_started", "status", "run_completed")
    await served.client.get("/v1/runs/build-27")  # its state is known, as a snapshot would have it
    await drop_all(database)
    if transport == "polling":

        async def no_sse(*_: object) -> None:
            raise client_module._NoSse

        monkeypatch.setattr(client_module._Following, "_open", no_sse)
    with anyio.fail_after(10):
        async with Client(served.url) as client:
            got = [event async for event in client.follow("build-27", 1)]
    assert [(event["type"], event["data"]["reason"], event["data"]["lastEventId"]) for event in got] == [
        ("reset", "retention", 3)
    ]


async def test_at_the_floor_a_reader_has_all_there_is(served: Served, database: str) -> None:
    await served.append("27", "plan_started", "status", "status")
    await drop_all(database)
    answer = (await served.client.get("/api/builds/27/events?lastEventId=3")).json()
    assert (answer["events"], answer["lastEventId"], "reset" in answer) == ([], 3, False)
    assert [name for name, _ in await follow_sse(served, 3)] in (["closed"], ["connected", "closed"])


async def test_viewers_of_a_stream_that_retention_takes_are_sent_off(served: Served, database: str) -> None:
    """The tail was open before; the sweep finds the log changed only when somebody reads below the floor."""
    await served.append("27", "plan_started", "status", "status")
    seen: list[str] = []
    ready = anyio.Event()

    async def view() -> None:
        async for frame in frames(served.client, "/events/27"):
            seen.append(frame.get("event", "message"))
            if len(seen) == 4:
                ready.set()

    with anyio.fail_after(15):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(view)
            await ready.wait()
            await drop_all(database)
            told = await follow_sse(served, 0)
            assert [name for name, _ in told] == ["connected", "reset", "closed"]
            tasks.cancel_scope.cancel()
    assert seen == ["connected", "message", "message", "message"]


async def test_when_an_older_log_is_put_in_place_live_viewers_begin_again(served: Served, database: str) -> None:
    """No viewer hangs behind a tail that is ahead of the log; what is appended then reaches them."""
    await served.append("27", *["status"] * 5)
    got: list[tuple[str, Any]] = []

    async def view() -> None:
        async for frame in frames(served.client, "/events/27"):
            got.extend([(frame.get("event", "message"), json.loads(frame["data"]))])

    with anyio.fail_after(15):
        async with connected(served.url) as sio, anyio.create_task_group() as tasks:
            tasks.start_soon(view)
            await sio.client.call("subscribe", {"buildId": "27"})
            await sio.until(lambda: len(sio.updates) == 5)
            while len(got) < 6:
                await anyio.sleep(0.01)
            await put_back(database, 2)
            await sio.until_event("reset")
            await sio.until(lambda: len(sio.updates) == 7)
            await served.append("27", "run_completed")
            await sio.until_event("closed")
    names = ["connected", *["message"] * 5, "reset", *["message"] * 3, "closed"]
    assert [name for name, _ in got] == names
    assert [data["id"] for name, data in got if name == "message"] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert [event["id"] for event in sio.updates] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert got[6][1] == {"type": "reset", "reason": PAST_THE_END, "lastEventId": 0}


async def test_a_poller_ahead_of_the_log_begins_again(served: Served) -> None:
    await served.append("27", "status", "status")
    answer = (await served.client.get("/api/builds/27/events?lastEventId=50&wait=20", timeout=5)).json()
    assert (answer["events"], answer["lastEventId"], answer["reset"]) == ([], 0, {"reason": PAST_THE_END})


async def test_events_that_are_missing_without_a_word_are_an_error_and_no_endless_loop(
    served: Served, database: str
) -> None:
    await served.append("27", "status", "status")
    async with connected(served.url) as early, connected(served.url) as late:
        await early.client.call("subscribe", {"buildId": "27"})
        await early.until(lambda: len(early.updates) == 2)
        async with await psycopg.AsyncConnection.connect(database) as owner:
            await owner.execute("ALTER TABLE events DETACH PARTITION events_1")
        await late.client.call("subscribe", {"buildId": "27"})
        problem = await late.until_event("problem")
    assert (problem["code"], late.updates) == ("internal", [])
    assert "not in the log" in problem["detail"]
