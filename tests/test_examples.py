"""The examples run as they stand."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.serving import Served, serving_memory

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


async def run(name: str, *arguments: str, url: str = "") -> str:
    with anyio.fail_after(60):
        done = await anyio.run_process(
            [sys.executable, str(EXAMPLES / name), *arguments], env={**os.environ, "FOLDSTREAM_URL": url}
        )
    return done.stdout.decode()


async def test_a_producer_and_a_viewer_need_only_the_standard_library(served: Served) -> None:
    viewed: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def view() -> None:
            viewed.extend((await run("viewer.py", "import", url=served.url)).splitlines())

        tasks.start_soon(view)
        told = await run("producer.py", "import", "0", url=served.url)
    assert told.startswith("8 events")
    assert [line.split()[0] for line in viewed] == [str(number) for number in range(1, 9)]
    assert viewed[-1] == "8 run_completed All rows imported"


@pytest.mark.live
async def test_the_demo_builds_an_app_and_says_where_it_is() -> None:
    told = await run("demo.py", "a landing page for a bakery", "--once")
    assert "your app: http://127.0.0.1:" in told
