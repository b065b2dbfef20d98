"""Socket.IO with a real client: acks, rooms, resumption, bad messages, slow sockets, access."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import socketio

from eventstore import NewEvent, StreamId
from streaming.live import Limits
from tests.serving import F27, Served, connected, leave, serving_memory


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


@pytest.mark.req("S1-27", "S1-29", "S2-13", "S2-26")
async def test_subscribe_is_acknowledged_and_connected_comes_before_the_first_update(served: Served) -> None:
    await served.append("27", "plan_started", "plan_generated")
    async with connected(served.url) as sio:
        ack = await sio.client.call("subscribe", {"buildId": "27"})
        await sio.until(lambda: len(sio.updates) == 2)
    assert ack == {"ok": True, "status": "planning", "head": 2, "epoch": "epoch-of-the-test"}
    assert [name for name, _ in sio.received] == ["connected", "update", "update"]
    hello = sio.received[0][1]
    assert (hello["type"], hello["buildId"], hello["head"]) == ("connected", "27", 2)
    assert hello["timestamp"].endswith("Z")
    assert sio.updates[0]["requestId"] == "27"


async def test_the_default_transports_of_a_browser_work_too(served: Served) -> None:
    await served.client.post("/api/builds/27/events", json=F27)
    async with connected(served.url, transports=("polling", "websocket")) as sio:
        await sio.client.call("subscribe", {"buildId": "27"})
        await sio.until_event("closed")
    assert [event["id"] for event in sio.updates] == list(range(1, 13))


async def test_a_client_on_http_polling_alone_gets_everything_live(served: Served) -> None:
    async with connected(served.url, transports=("polling",)) as sio:
        await sio.client.call("subscribe", {"buildId": "27"})
        for event in F27:
            await served.client.post("/api/builds/27/events", json=event)
        await sio.until_event("closed")
    assert [event["id"] for event in sio.updates] == list(range(1, 13))


@pytest.mark.req("S1-28")
async def test_the_handshake_may_carry_the_cursor_of_the_first_subscription(served: Served) -> None:
    await served.client.post("/api/builds/27/events", json=F27)
    await served.client.post("/api/builds/28/events", json=F27)
    sio = socketio.AsyncClient(reconnection=False)
    got: list[tuple[str, int]] = []
    done = anyio.Event()
    closed: list[str] = []
    sio.on("update", lambda event: got.append((event["buildId"], event["id"])))

    async def on_closed(data: dict[str, Any]) -> None:
        closed.append(data["buildId"])
        if len(closed) == 2:
            done.set()

    sio.on("closed", on_closed)
    await sio.connect(f"{served.url}?lastEventId=10", transports=["websocket"], wait_timeout=10)
    try:
        await sio.call("subscribe", {"buildId": "27"})
        await sio.call("subscribe", {"buildId": "28"})
        with anyio.fail_after(10):
            await done.wait()
    finally:
        await sio.disconnect()
    assert sorted(got) == [("27", 11), ("27", 12), *[("28", number) for number in range(1, 13)]]


async def test_one_socket_follows_many_builds_and_each_in_order(served: Served) -> None:
    async with connected(served.url) as sio:
        for number in range(10):
            await sio.client.call("subscribe", {"buildId": f"b{number}"})
        for _ in range(5):
            for number in range(10):
                await served.append(f"b{number}", "status")
        await sio.until(lambda: len(sio.updates) == 50)
        for number in range(10):
            own = [event["id"] for event in sio.updates if event["buildId"] == f"b{number}"]
            assert own == [1, 2, 3, 4, 5]


async def test_unsubscribe_ends_the_updates_and_the_tail(served: Served) -> None:
    async with connected(served.url) as sio:
        await sio.client.call("subscribe", {"buildId": "27"})
        await served.append("27", "status")
        await sio.until(lambda: len(sio.updates) == 1)
        assert await sio.client.call("unsubscribe", {"buildId": "27"}) == {"ok": True}
        with anyio.fail_after(5):
            while served.live.hub._tails:
                await anyio.lowlevel.checkpoint()
        await served.append("27", "status")
        await sio.client.call("unsubscribe", {"buildId": "27"})
        assert len(sio.updates) == 1


async def test_subscribing_again_begins_again_from_the_given_cursor(served: Served) -> None:
    await served.append("27", "a", "b", "c")
    async with connected(served.url) as sio:
        await sio.client.call("subscribe", {"buildId": "27"})
        await sio.until(lambda: len(sio.updates) == 3)
        await sio.client.call("subscribe", {"buildId": "27", "lastEventId": 1})
        await sio.until(lambda: len(sio.updates) == 5)
        await served.append("27", "d")
        await sio.until(lambda: len(sio.updates) == 6)
    assert [event["id"] for event in sio.updates] == [1, 2, 3, 2, 3, 4]


async def test_a_cursor_ahead_of_the_log_is_reset(served: Served) -> None:
    await served.append("27", "a", "b")
    async with connected(served.url) as sio:
        await sio.client.call("subscribe", {"buildId": "27", "lastEventId": 50})
        reset = await sio.until_event("reset")
        await sio.until(lambda: len(sio.updates) == 2)
    assert reset["lastEventId"] == 0
    assert [event["id"] for event in sio.updates] == [1, 2]


@pytest.mark.req("S2-58")
@pytest.mark.parametrize(
    "message",
    [
        None, 5, "27", [], {}, {"buildId": None}, {"buildId": {}}, {"buildId": True}, {"buildId": "a b"},
        {"buildId": "x" * 200}, {"buildId": "27", "lastEventId": "abc"}, {"buildId": "27", "lastEventId": -1},
        {"buildId": "27", "lastEventId": 1.5}, {"buildId": "27", "lastEventId": {}}, {"buildId": "27", "token": 5},
        {"run": "nodash"}, {"run": "unknown-1"},
    ],
    ids=repr,
)  # fmt: skip
async def test_a_bad_message_is_answered_with_a_problem_and_joins_nothing(served: Served, message: Any) -> None:
    async with connected(served.url) as sio:
        ack = await sio.client.call("subscribe", message)
        assert ack["ok"] is False
        assert ack["status"] in (400, 422)
        assert ack["fix"]
        assert served.live.hub._tails == {}
        assert (await sio.client.call("subscribe", {"buildId": "27"}))["ok"] is True


async def test_subscriptions_of_one_socket_are_limited() -> None:
    async with serving_memory(limits=Limits(subscriptions=3)) as served, connected(served.url) as sio:
        acks = [await sio.client.call("subscribe", {"buildId": f"b{number}"}) for number in range(4)]
    assert [ack["ok"] for ack in acks] == [True, True, True, False]


async def test_a_socket_that_takes_too_slowly_goes_back_to_the_log_and_misses_nothing() -> None:
    stream = StreamId("build", "27")
    async with serving_memory(limits=Limits(member_packets=10)) as served, connected(served.url) as sio:
        await sio.client.call("subscribe", {"buildId": "27"})
        await sio.until_event("connected")
        for _ in range(30):
            await served.store.append(stream, [NewEvent("status", {"x": "y" * 200}) for _ in range(20)])
        await served.store.append(stream, [NewEvent("run_completed")])
        await sio.until_event("closed")
        downgrades = served.live.metrics.downgrades.labels("socketio")._value.get()
    assert [event["id"] for event in sio.updates] == list(range(1, 602))
    assert downgrades > 0


@pytest.mark.req("S2-61")
async def test_the_gauge_counts_open_sockets(served: Served) -> None:
    async with connected(served.url), connected(served.url), connected(served.url):
        assert "websocket_active_connections 3.0" in (await served.client.get("/metrics")).text
    with anyio.fail_after(5):
        while "websocket_active_connections 0.0" not in (await served.client.get("/metrics")).text:
            await anyio.sleep(0.01)


@pytest.mark.req("S1-26", "S2-52")
async def test_pages_of_other_origins_may_not_connect() -> None:
    async with serving_memory(origins=("https://app.example",)) as served:
        for origin, allowed in [("https://evil.example", False), ("https://app.example", True), (served.url, True)]:
            sio = socketio.AsyncClient(reconnection=False)
            for transport in ("websocket", "polling"):
                try:
                    await sio.connect(served.url, headers={"Origin": origin}, transports=[transport], wait_timeout=5)
                    connected_ = True
                except socketio.exceptions.ConnectionError:
                    connected_ = False
                assert connected_ is allowed, (origin, transport)
                if connected_:
                    await leave(sio)


async def test_a_socket_that_leaves_in_the_middle_of_a_replay_leaves_nothing_behind(served: Served) -> None:
    stream = StreamId("build", "27")
    await served.store.append(stream, [NewEvent("status", {"x": "y" * 1000}) for _ in range(1000)])
    for _ in range(5):
        async with connected(served.url) as sio:
            await sio.client.call("subscribe", {"buildId": "27"})
    with anyio.fail_after(10):
        while served.live.hub._tails:
            await anyio.sleep(0.01)
