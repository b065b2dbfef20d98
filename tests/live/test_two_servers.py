"""Two server processes over one Postgres and one Redis, a fifth of the bus thrown away, every connection cut at random:
whoever watches by WebSocket, SSE or polling ends with exactly the log."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import socketio
from httpx2 import AsyncClient, HTTPError, Timeout

from foldstream.service import new_id
from tests.processes import Cutter, Foldstream, running
from tests.serving import frames

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

EVENTS = 120
RUNS = 10


@pytest.fixture
async def servers(database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Foldstream, Foldstream]]:
    env = {"DATABASE_URL": database, "REDIS_URL": redis_url, "FAULT_DROP_RINGS": "0.2"}
    arguments = ("serve", "--port", "0", "--insecure")
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(tmp_path / "one", *arguments, env=env))
        other = await stack.enter_async_context(running(tmp_path / "other", *arguments, env=env))
        yield one, other


async def watch_sse(url: str, build: str, got: list[dict[str, Any]]) -> None:
    async with AsyncClient(base_url=url, timeout=Timeout(5, read=20)) as client:
        while True:
            cursor = got[-1]["id"] if got else 0
            with suppress(HTTPError):
                headers = {"Last-Event-ID": str(cursor)} if cursor else {}
                async with aclosing(frames(client, f"/events/{build}", **headers)) as stream:
                    async for frame in stream:
                        if frame.get("event") == "closed":
                            return
                        if "id" in frame:
                            got.append(json.loads(frame["data"]))


async def watch_socketio(url: str, build: str, got: list[dict[str, Any]]) -> None:
    while True:
        ended, closed = anyio.Event(), anyio.Event()
        client = socketio.AsyncClient(reconnection=False)
        client.on("update", got.append)
        client.on("closed", lambda _, closed=closed, ended=ended: (closed.set(), ended.set()))
        client.on("disconnect", lambda *_, ended=ended: ended.set())
        try:
            await client.connect(url, transports=["websocket"], wait_timeout=5)
            cursor = got[-1]["id"] if got else 0
            await client.call("subscribe", {"buildId": build, "lastEventId": cursor}, timeout=1)
            await ended.wait()
        except socketio.exceptions.SocketIOError:
            pass  # cut again: once more, from where we are
        finally:
            await client.disconnect()
        if closed.is_set():
            return


async def watch_polling(url: str, build: str, got: list[dict[str, Any]]) -> None:
    async with AsyncClient(base_url=url, timeout=Timeout(5, read=20)) as client:
        while True:
            with suppress(HTTPError, ValueError):
                cursor = got[-1]["id"] if got else 0
                params = {"lastEventId": cursor, "wait": 5, "limit": 20}
                got.extend((await client.get(f"/api/builds/{build}/events", params=params)).json()["events"])
                status = (await client.get(f"/api/builds/{build}/status")).json()
                if status["status"] == "completed" and got and got[-1]["id"] >= status["lastEventId"]:
                    return


async def produce(urls: list[str], build: str, chance: random.Random) -> None:
    """Append through either server, each request until it is answered: the key makes that safe."""
    async with AsyncClient(timeout=10) as client:
        for number in range(1, EVENTS + 1):
            final = number == EVENTS
            event = {"type": "run_completed" if final else "status", "data": {"n": number}, "key": f"event-{number}"}
            answer = await client.post(f"{chance.choice(urls)}/api/builds/{build}/events", json=event)
            assert answer.status_code == 201, answer.text
            if chance.random() < 0.1:
                await anyio.sleep(chance.random() * 0.1)


@pytest.mark.req("K-01", "K-06", "K-07", "S1-58")
async def test_three_kinds_of_viewers_equal_the_log_ten_runs_out_of_ten(
    servers: tuple[Foldstream, Foldstream],
) -> None:
    urls = [server.url for server in servers]
    cuts = 0
    for run in range(RUNS):
        chance = random.Random(run)
        build = new_id()
        got: dict[str, list[dict[str, Any]]] = {}
        with anyio.fail_after(60):
            async with AsyncExitStack() as stack:
                cutters = [
                    await stack.enter_async_context(Cutter(url, chance, cut_after=25).open()) for url in urls * 3
                ]
                async with anyio.create_task_group() as tasks:
                    for number, cutter in enumerate(cutters):
                        watch = (watch_sse, watch_socketio, watch_polling)[number % 3]
                        name = f"{watch.__name__} on server {number % 2}"
                        tasks.start_soon(watch, cutter.url, build, got.setdefault(name, []))
                    tasks.start_soon(produce, urls, build, chance)
                cuts += sum(cutter.cuts for cutter in cutters)
        async with AsyncClient(base_url=urls[0]) as client:
            log = (await client.get(f"/api/builds/{build}/events")).json()["events"]
        assert [event["id"] for event in log] == list(range(1, EVENTS + 1))
        for name, events in got.items():
            shown = [{key: event[key] for key in ("id", "type", "data", "timestamp")} for event in events]
            assert shown == log, f"run {run}: {name}"
    async with AsyncClient() as client:
        for url in urls:
            metrics = (await client.get(f"{url}/metrics")).text
            repairs = next(line for line in metrics.splitlines() if line.startswith("foldstream_repairs_total "))
            assert float(repairs.split()[1]) > 0, "some rings were thrown away, so some holes were closed from the log"
    assert cuts > RUNS, "connections were cut"
