"""`foldstream dev`: killed and started again in the middle of a build, with Redis flushed on the way."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis.asyncio as redis
from httpx2 import AsyncClient, HTTPError, Timeout

from foldstream.serve import listen
from tests.processes import Foldstream, running, until_status
from tests.serving import frames

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

PROMPT = {"prompt": "a todo app with dark mode and search", "buildId": "app"}


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
async def dev(tmp_path: Path, redis_url: str) -> AsyncIterator[Foldstream]:
    env = {"REDIS_URL": redis_url}
    async with running(tmp_path / "data", "dev", "--port", str(free_port()), env=env) as foldstream:
        yield foldstream


async def watch(url: str, got: list[dict[str, Any]], seen: anyio.Event) -> None:
    """One viewer over SSE who comes back whenever the server does."""
    async with AsyncClient(base_url=url, timeout=Timeout(5, read=20)) as client:
        while True:
            headers = {"Last-Event-ID": str(got[-1]["id"])} if got else {}
            with suppress(HTTPError):
                async with aclosing(frames(client, "/events/app", **headers)) as stream:
                    async for frame in stream:
                        if frame.get("event") == "closed":
                            return
                        if "id" in frame:
                            got.append(json.loads(frame["data"]))
                            if got[-1]["type"] == "task_started":
                                seen.set()
            await anyio.sleep(0.05)


@pytest.mark.req("K-05", "S2-32", "S0-42", "S1-75")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
async def test_a_build_goes_on_after_everything_was_restarted(dev: Foldstream, redis_url: str, number: int) -> None:
    got: list[dict[str, Any]] = []
    begun = anyio.Event()
    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks, AsyncClient(base_url=dev.url) as client:
            tasks.start_soon(watch, dev.url, got, begun)
            assert (await client.post("/build-preview", json=PROMPT)).status_code == 201
            await begun.wait()
            connection = redis.from_url(redis_url)
            await connection.flushall()
            await connection.aclose()
            await dev.kill(number)
            before = list(got)
            await dev.start()
            status = await until_status(dev.url, "app", "completed", "failed")
    assert status["status"] == "completed", status
    async with AsyncClient(base_url=dev.url) as client:
        log = (await client.get("/api/builds/app/events")).json()["events"]
        assert (await client.get("/preview/app/")).status_code == 200
    assert [event["id"] for event in log] == list(range(1, len(log) + 1))
    assert [event["id"] for event in got] == [event["id"] for event in log]
    assert [event["data"] for event in before] == [event["data"] for event in log[: len(before)]]
    ends = [event["type"] for event in log if event["type"].endswith("_completed")]
    assert sorted(ends) == ["build_completed", "deploy_completed", *["task_completed"] * 3]


async def test_ctrl_c_ends_everything_within_two_seconds_and_keeps_the_data(tmp_path: Path) -> None:
    chance = random.Random(1)
    async with running(tmp_path / "data", "dev", "--port", str(free_port())) as dev:
        async with AsyncClient(base_url=dev.url) as client:
            await client.post("/api/builds/27/events", json={"type": "plan_started"})
            async with client.stream("GET", "/events/27") as stream:
                assert stream.status_code == 200
                started = anyio.current_time()
                code = await dev.kill(chance.choice([signal.SIGINT, signal.SIGTERM]))
                assert anyio.current_time() - started < 2
        assert code == 0, dev.log
        assert "Traceback" not in dev.log
        await dev.start()
        async with AsyncClient(base_url=dev.url) as client:
            assert (await client.get("/api/builds/27/status")).json()["eventCount"] == 1


async def test_a_port_that_is_taken_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with anyio.fail_after(10):
            ended = await anyio.run_process(
                [*_foldstream(), "dev", "--port", str(port), "--data-dir", str(tmp_path)], check=False
            )
    assert ended.returncode == 1
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 2, lines
    assert f"port {port}" in lines[0]
    assert "Traceback" not in ended.stderr.decode()


async def test_a_postgres_that_cannot_be_reached_is_one_sentence_and_exit_code_1(
    tmp_path: Path, redis_url: str
) -> None:
    import os

    env = {**os.environ, "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/x", "REDIS_URL": redis_url}
    with anyio.fail_after(30):
        ended = await anyio.run_process(
            [*_foldstream(), "dev", "--port", "0", "--data-dir", str(tmp_path)], check=False, env=env
        )
    assert ended.returncode == 1
    words = ended.stderr.decode()
    assert "Postgres" in words
    assert "Traceback" not in words


def _foldstream() -> list[str]:
    import sys

    return [sys.executable, "-m", "foldstream"]
