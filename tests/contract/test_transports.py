"""The contract of the transports: SSE, Socket.IO and polling show the same events, in order, once, from any cursor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from eventstore import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore
from streaming.buses.redis import RedisBus
from streaming.metrics import Metrics
from tests.serving import F27, Announcer, Served, connected, frames, serving, serving_memory

Follow = Callable[[Served, str, int, "Callable[[int], None] | None"], Awaitable[list[dict[str, Any]]]]


async def follow_sse(
    served: Served, id_: str, after: int, seen: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    got = []
    headers = {"Last-Event-ID": str(after)} if after else {}
    async with aclosing(frames(served.client, f"/events/{id_}", **headers)) as stream:
        async for frame in stream:
            if frame.get("event") == "closed":
                break
            if "id" in frame:
                got.append(json.loads(frame["data"]))
                assert got[-1]["id"] == int(frame["id"])
                if seen:
                    seen(got[-1]["id"])
    return got


async def follow_socketio(
    served: Served, id_: str, after: int, seen: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    async with connected(served.url) as sio:
        ack = await sio.client.call("subscribe", {"buildId": id_, "lastEventId": after})
        assert ack["ok"] is True, ack
        if seen:
            await sio.until(lambda: bool(sio.updates))
            seen(sio.updates[0]["id"])
        await sio.until_event("closed")
        return sio.updates


async def follow_polling(
    served: Served, id_: str, after: int, seen: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    cursor = after
    while True:
        answer = await served.client.get(
            f"/api/builds/{id_}/events", params={"lastEventId": cursor, "wait": 5, "limit": 7}
        )
        body = answer.json()
        got.extend(body["events"])
        cursor = body["lastEventId"]
        if seen and got:
            seen(got[-1]["id"])
        status = (await served.client.get(f"/api/builds/{id_}/status")).json()
        if status["status"] in ("completed", "failed") and status["lastEventId"] <= cursor:
            return got


FOLLOWS: dict[str, Follow] = {"sse": follow_sse, "socketio": follow_socketio, "polling": follow_polling}


@pytest.fixture(params=FOLLOWS, ids=str)
def follow(request: pytest.FixtureRequest) -> Follow:
    return FOLLOWS[request.param]


@pytest.fixture(params=["memory", "postgres"])
def real(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """A database and a Redis, or none: then the in-memory twins. (An async fixture cannot ask for others.)"""
    if request.param == "memory":
        return None
    return request.getfixturevalue("database"), request.getfixturevalue("redis_url")


@pytest.fixture
async def served(real: tuple[str, str] | None) -> AsyncIterator[Served]:
    if real is None:
        async with serving_memory() as memory:
            yield memory
        return
    database, redis_url = real
    announcer = Announcer()
    bus = RedisBus(redis_url, f"test:{database[-16:]}", Metrics())
    async with PostgresStore(database, announce=announcer) as store, serving(store, announcer, bus=bus) as postgres:
        yield postgres


def facts(events: list[dict[str, Any]]) -> list[tuple[int, str, Any, str]]:
    return [(event["id"], event["type"], event["data"], event["timestamp"]) for event in events]


async def the_log(served: Served, id_: str) -> list[tuple[int, str, Any, str]]:
    return facts((await served.client.get(f"/api/builds/{id_}/events")).json()["events"])


@pytest.mark.req("S1-40", "S1-28", "S1-32", "S1-58")
async def test_a_finished_build_is_shown_whole_and_then_closed(served: Served, follow: Follow) -> None:
    await served.client.post("/api/builds/27/events", json=F27)
    got = await follow(served, "27", 0, None)
    assert [event["id"] for event in got] == list(range(1, 13))
    assert facts(got) == await the_log(served, "27")


@pytest.mark.req("K-08", "S1-28", "S1-46")
async def test_a_reader_goes_on_where_it_was(served: Served, follow: Follow) -> None:
    await served.client.post("/api/builds/27/events", json=F27)
    assert [event["id"] for event in await follow(served, "27", 5, None)] == list(range(6, 13))


@pytest.mark.req("S1-32", "S2-81", "K-07")
async def test_appends_race_the_join_and_nothing_is_lost_or_doubled(served: Served, follow: Follow) -> None:
    stream = StreamId("build", "race")
    joined = anyio.Event()
    await served.store.append(stream, [NewEvent("status", {"n": n}) for n in range(50)])

    async def append() -> None:
        for n in range(60):
            await served.store.append(stream, [NewEvent("status", {"n": n})])
            if n == 30:
                with anyio.move_on_after(5):
                    await joined.wait()
        await served.store.append(stream, [NewEvent("run_completed", {"exitCode": 0})])

    got: list[dict[str, Any]] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append)
            got = await follow(served, "race", 0, lambda _: joined.set())
    assert [event["id"] for event in got] == list(range(1, 112))
    assert facts(got) == await the_log(served, "race")


@pytest.mark.req("S2-06", "S1-27")
async def test_nobody_sees_the_events_of_another_build(served: Served, follow: Follow) -> None:
    await served.append("mine", "plan_started")
    got: list[dict[str, Any]] = []

    async def others() -> None:
        for _ in range(20):
            await served.append("theirs", "status")
            await served.append("mine2", "status")
        await served.append("mine", "run_completed")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(others)
            got = await follow(served, "mine", 0, None)
    assert [event["type"] for event in got] == ["plan_started", "run_completed"]


async def test_a_large_log_is_shown_whole(served: Served, follow: Follow) -> None:
    stream = StreamId("build", "large")
    for _ in range(3):
        await served.store.append(stream, [NewEvent("status", {"text": "x" * 100}) for _ in range(900)])
    await served.store.append(stream, [NewEvent("run_failed", {"exitCode": 1})])
    assert [event["id"] for event in await follow(served, "large", 0, None)] == list(range(1, 2702))


async def test_odd_text_arrives_as_it_was_sent(served: Served, follow: Follow) -> None:
    odd = 'a\nb\r\nc\u2028d "quoted" \\u0000 <script>alert(1)</script> 日本 🎉 data: x\n\nid: 99'
    await served.append("odd", "status", text=odd, message=odd)
    await served.append("odd", "run_completed")
    got = await follow(served, "odd", 0, None)
    assert got[0]["data"] == {"text": odd, "message": odd}
    assert [event["id"] for event in got] == [1, 2]
