"""Commands that work on one data folder at the same time, with no server there: they share the database they start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.commandline import foldstream

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


async def test_none_shuts_the_database_down_under_another(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path / "data"))
    made = await foldstream("migrate", *folder)
    assert made.code == 0, made.err
    for _ in range(3):
        for done in await asyncio.gather(*(foldstream("verify", "--all", *folder) for _ in range(4))):
            assert done.code == 0, done.err
    told = await foldstream("dsn", *folder)
    assert told.code == 1, "the last one has stopped it"
    assert b"Start `foldstream dev`" in told.err


async def test_dsn_says_how_to_reach_what_runs(database: str) -> None:
    assert (await foldstream("dsn", DATABASE_URL=database)).lines == [database]
