"""What the tests of all packages share: real servers, and a fresh database for whoever asks for one.

Everything is lazy: a run of pure tests starts nothing. FOLDSTREAM_TEST_DATABASE_URL (a URL whose user may create
databases) and FOLDSTREAM_TEST_REDIS_URL name servers to use instead of our own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from foldstream.services import postgres, valkey
from tests.processes import Foldstream, running


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL for this session; it forgets everything if the machine crashes."""
    given = os.environ.get("FOLDSTREAM_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with (
        tempfile.TemporaryDirectory(prefix="foldstream-test-", dir=_fast_folder()) as folder,
        postgres(Path(folder), durable=False) as url,
    ):
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Valkey for this session, shared by all tests: choose names that nobody else uses."""
    given = os.environ.get("FOLDSTREAM_TEST_REDIS_URL")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="foldstream-test-") as folder, valkey(Path(folder)) as url:
        yield url


@pytest.fixture(scope="session")
async def template_database(postgres_server: str) -> AsyncIterator[str]:
    """The URL of a database with the schema in it, to be copied; connecting to it would stop the copying."""
    from foldstream.migrations import migrate

    async with _new_database(postgres_server) as url:
        await migrate(url)
        yield url


@pytest.fixture
async def database(postgres_server: str, template_database: str) -> AsyncIterator[str]:
    """The URL of a fresh database with the schema in it."""
    async with _new_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
async def second_database(postgres_server: str, template_database: str) -> AsyncIterator[str]:
    """The URL of another fresh database with the schema in it, for what goes from one to the other."""
    async with _new_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
async def empty_database(postgres_server: str) -> AsyncIterator[str]:
    """The URL of a fresh database with nothing in it."""
    async with _new_database(postgres_server) as url:
        yield url


def _fast_folder() -> str | None:
    """Memory, where there is enough of it: a database is copied in 10 ms there, in 140 ms on a disk (measured)."""
    memory = "/dev/shm"
    enough = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return memory if enough else None


@asynccontextmanager
async def _new_database(server: str, template: str = "") -> AsyncIterator[str]:
    name = f"test_{uuid4().hex[:16]}"
    copied = urlsplit(template).path.lstrip("/") or "template1"
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as admin:
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{copied}" STRATEGY file_copy')
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Foldstream]:
    """`foldstream dev` as a process of its own; its ``url`` answers. Choose ids that nobody else uses."""
    async with running(tmp_path_factory.mktemp("service") / "data", "dev", "--port", "0") as foldstream:
        yield foldstream
