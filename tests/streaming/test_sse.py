"""SSE on the wire: frames, cursors, resets, the end, slow readers and the server's own end."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from eventstore import NewEvent, StreamId
from streaming.live import Limits
from tests.serving import F27, Served, frames, serving_memory


async def take(served: Served, path: str, count: int, **headers: str) -> list[dict[str, str]]:
    """The first ``count`` frames."""
    got = []
    with anyio.fail_after(15):
        async with aclosing(frames(served.client, path, **headers)) as stream:
            async for frame in stream:
                got.append(frame)
                if len(got) == count:
                    break
    return got


def ids(got: list[dict[str, str]]) -> list[int]:
    return [int(frame["id"]) for frame in got if "id" in frame]


@pytest.mark.req("S2-80", "S1-31")
async def test_the_headers_keep_proxies_from_buffering() -> None:
    async with serving_memory() as served:
        await served.append("27", "plan_started", "run_completed")
        async with served.client.stream("GET", "/events/27") as answer:
            headers = answer.headers
            await answer.aread()
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.req("S2-13", "S1-32", "K-08")
async def test_frames_are_connected_then_events_with_ids_then_closed() -> None:
    async with serving_memory() as served:
        await served.client.post("/api/builds/27/events", json=F27)
        got = await take(served, "/events/27", 9, **{"Last-Event-ID": "5"})
    assert got[0]["event"] == "connected"
    assert int(got[0]["retry"]) > 0
    hello = json.loads(got[0]["data"])
    assert (hello["type"], hello["buildId"], hello["head"], hello["epoch"]) == (
        "connected",
        "27",
        12,
        "epoch-of-the-test",
    )
    assert ids(got) == list(range(6, 13))
    assert all("event" not in frame for frame in got if "id" in frame)
    assert json.loads(got[1]["data"])["requestId"] == "27"
    assert (got[-1]["event"], json.loads(got[-1]["data"])) == ("closed", {"type": "closed", "lastEventId": 12})


@pytest.mark.parametrize("query", ["lastEventId=5", "last_event_id=5"])
async def test_the_cursor_may_stand_in_the_query(query: str) -> None:
    async with serving_memory() as served:
        await served.client.post("/api/builds/27/events", json=F27)
        assert ids(await take(served, f"/events/27?{query}", 3)) == [6, 7]


async def test_the_header_wins_over_the_query_that_a_browser_repeats() -> None:
    async with serving_memory() as served:
        await served.client.post("/api/builds/27/events", json=F27)
        assert ids(await take(served, "/events/27?lastEventId=1", 2, **{"Last-Event-ID": "9"})) == [10]


async def test_the_same_stream_is_there_by_accept() -> None:
    async with serving_memory() as served:
        await served.client.post("/api/builds/27/events", json=F27)
        got = await take(served, "/api/builds/27/events?lastEventId=10", 3, Accept="text/event-stream")
    assert ids(got) == [11, 12]


async def test_a_reader_who_has_all_of_a_finished_build_is_told_to_stop() -> None:
    async with serving_memory() as served:
        await served.client.post("/api/builds/27/events", json=F27)
        answer = await served.client.get("/events/27", headers={"Last-Event-ID": "12"})
    assert answer.status_code == 204


@pytest.mark.parametrize("header", ["abc", "-1", "99", "1.5", "9" * 30])
async def test_a_cursor_that_cannot_be_is_reset_in_the_stream_and_the_whole_log_follows(header: str) -> None:
    async with serving_memory() as served:
        await served.client.post("/api/builds/27/events", json=F27)
        got = await take(served, "/events/27", 15, **{"Last-Event-ID": header})
    assert [frame.get("event") for frame in got[:2]] == ["connected", "reset"]
    assert json.loads(got[1]["data"])["lastEventId"] == 0
    assert ids(got) == list(range(1, 13))


async def test_a_bad_cursor_in_the_query_is_a_problem() -> None:
    async with serving_memory() as served:
        answer = await served.client.get("/events/27?lastEventId=abc")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_build_that_has_not_begun_starts_by_itself() -> None:
    async with serving_memory() as served, anyio.create_task_group() as tasks:
        got: list[dict[str, str]] = []

        async def follow() -> None:
            got.extend(await take(served, "/events/later", 3))

        tasks.start_soon(follow)
        while not served.live.hub._tails:
            await anyio.lowlevel.checkpoint()
        await served.append("later", "plan_started", "plan_generated")
        with anyio.fail_after(10):
            while len(got) < 3:
                await anyio.sleep(0.01)
    assert ids(got) == [1, 2]


async def test_silence_is_filled_with_heartbeats_that_say_where_the_log_is() -> None:
    async with serving_memory(limits=Limits(heartbeat=0.05)) as served:
        await served.append("27", "plan_started")
        got = await take(served, "/events/27", 4)
    assert [frame.get("event") for frame in got] == ["connected", None, "heartbeat", "heartbeat"]
    assert json.loads(got[-1]["data"])["head"] == 1


@pytest.mark.req("S1-33")
async def test_streams_that_are_left_leave_nothing_behind() -> None:
    async with serving_memory() as served:
        await served.append("27", "plan_started")
        for _ in range(30):
            await take(served, "/events/27", 2)
        with anyio.fail_after(10):
            while served.live.hub._tails:
                await anyio.sleep(0.01)
        gauge = served.live.metrics.connections.labels("sse")._value.get()
    assert gauge == 0


async def test_a_reader_that_takes_too_slowly_gets_everything_and_hurts_nobody() -> None:
    """The slow reader's room is one small chunk: it is sent back to the log again and again."""
    stream = StreamId("build", "27")
    async with serving_memory(limits=Limits(member_bytes=2000)) as served:
        got: dict[str, list[int]] = {"slow": [], "fast": []}

        async def follow(name: str, checkpoints: int) -> None:
            async with aclosing(frames(served.client, "/events/27")) as frames_:
                async for frame in frames_:
                    for _ in range(checkpoints):
                        await anyio.lowlevel.checkpoint()
                    if "id" in frame:
                        got[name].append(int(frame["id"]))

        async def append() -> None:
            for _ in range(40):
                await served.store.append(stream, [NewEvent("status", {"x": "y" * 300}) for _ in range(5)])
                await anyio.lowlevel.checkpoint()
            await served.store.append(stream, [NewEvent("run_completed")])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, "slow", 40)
                tasks.start_soon(follow, "fast", 0)
                tasks.start_soon(append)
    assert got["slow"] == got["fast"] == list(range(1, 202))


async def test_a_reader_that_takes_no_byte_is_cut_off_and_counted() -> None:
    stream = StreamId("build", "27")
    async with serving_memory(limits=Limits(write_deadline=0.2)) as served:
        await served.append("27", "plan_started")
        host, port = served.url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as socket:
            await socket.send(b"GET /events/27 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await socket.receive()
            metric = served.live.metrics.stalled.labels("sse")
            with anyio.fail_after(20):
                while metric._value.get() == 0:
                    await served.store.append(stream, [NewEvent("status", {"x": "y" * 60_000}) for _ in range(20)])
        assert metric._value.get() == 1


async def test_when_the_server_goes_down_streams_say_so_and_end() -> None:
    got: list[dict[str, str]] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, serving_memory() as served:
            await served.append("27", "plan_started")
            ready = anyio.Event()

            async def follow(served: Served, ready: anyio.Event) -> None:
                async with aclosing(frames(served.client, "/events/27")) as stream:
                    async for frame in stream:
                        got.append(frame)
                        if "id" in frame:
                            ready.set()

            tasks.start_soon(follow, served, ready)
            await ready.wait()
            served.live.closing.set()
            served.live.hub.nudge()
            while got[-1].get("event") != "drain":
                await anyio.sleep(0.01)
    assert int(got[-1]["retry"]) > 0


async def test_a_lost_ring_costs_a_sweep_and_no_event() -> None:
    async with serving_memory() as served:
        served.live.hub.deliver = lambda events: None  # type: ignore[method-assign]
        await served.append("27", "plan_started")
        result: list[Any] = []

        async def follow() -> None:
            result.extend(await take(served, "/events/27", 4))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                while not served.live.hub._tails:
                    await anyio.lowlevel.checkpoint()
                await served.append("27", "plan_generated", "run_completed")
    assert ids(result) == [1, 2, 3]


async def test_json_that_sql_wrote_over_several_lines_stays_one_frame() -> None:
    from datetime import UTC, datetime

    from eventstore import START, Event
    from eventstore.shape import written
    from streaming import wire

    odd = Event(StreamId("build", "27"), 1, START, "status", b'{"a":\r\n\n1}', datetime.now(UTC))
    frame = wire.sse([odd])
    assert frame.count(b"\n") == 3
    assert json.loads(frame.split(b"data: ")[1])["data"] == {"a": 1}
    assert len(written(wire.LINE, [odd])[0].splitlines()) == 1
