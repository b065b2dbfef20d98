"""What the tests of the pipeline share: a database with a queue in it, a store on it, and prompt settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventstore.stores.postgres import PostgresStore
from pipeline.queue import install
from pipeline.settings import PipelineSettings

PUBLIC_URL = "http://preview.test:8000"


@pytest.fixture
async def queue_database(database: str) -> str:
    """The DSN of a database with log and queue."""
    await install(database)
    return database


@pytest.fixture
async def store(queue_database: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(queue_database) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path) -> PipelineSettings:
    """As in production, only quicker to notice that somebody is gone."""
    return PipelineSettings(
        data_dir=tmp_path,
        public_url=PUBLIC_URL,
        heartbeat=0.3,
        stalled_after=1.5,
        sweep_every=0.4,
        poll_every=0.3,
    )
