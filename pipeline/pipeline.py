"""Pipeline: planner, builder, deployer, queue and worker put together the way a single machine needs them.

Other parts come in by name where they are given; nothing here knows which planner or deployer it is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import replace

import anyio
import psycopg
from starlette.routing import BaseRoute

from eventstore.event import StreamId
from eventstore.states import States
from eventstore.store import Store
from pipeline import routes
from pipeline.builder import Builder
from pipeline.builders.static import static_builder
from pipeline.deployer import Deployer
from pipeline.deployers.local import LocalDeployer
from pipeline.planner import Planner
from pipeline.planners.template import TemplatePlanner
from pipeline.queue import QUEUES
from pipeline.settings import PipelineSettings
from pipeline.worker import Worker

__all__ = ["Pipeline", "PipelineSettings"]


class Pipeline:
    """What makes builds out of prompts. dsn: the database of ``store``, where the queue is. name: the worker's."""

    def __init__(
        self,
        store: Store,
        states: States,
        dsn: str,
        settings: PipelineSettings,
        *,
        planner: Planner | None = None,
        builder: Builder | None = None,
        deployer: Deployer | None = None,
        queues: tuple[str, ...] = QUEUES,
        name: str = "",
    ) -> None:
        self._store = store
        self._states = states
        self._dsn = dsn
        self._settings = replace(settings, data_dir=settings.data_dir.resolve())
        self._planner = planner or TemplatePlanner()
        self._builder = builder or static_builder()
        self._deployer = deployer or LocalDeployer(self._settings.data_dir, settings.public_url)
        self._queues = queues
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"

    def routes(
        self, *, mint: Callable[[StreamId], str], new_id: Callable[[], str], allow: routes.Allow
    ) -> list[BaseRoute]:
        """POST /build-preview and GET /preview/; see `pipeline.routes`."""
        return routes.routes(self._store, self._states, self._settings, mint=mint, new_id=new_id, allow=allow)

    async def work(self, stop: anyio.Event) -> None:
        """Do jobs until ``stop`` is set; returns within about a second of it."""
        worker = Worker(
            store=self._store,
            dsn=self._dsn,
            planner=self._planner,
            builder=self._builder,
            deployer=self._deployer,
            settings=self._settings,
            name=self._name,
            queues=self._queues,
        )
        running = asyncio.create_task(worker.run())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            worker.stop()
        await running

    async def is_alive(self) -> bool:
        """Whether the queue can be reached, and is installed."""
        try:
            async with await psycopg.AsyncConnection.connect(self._dsn, connect_timeout=2) as connection:
                row = await (await connection.execute("select to_regclass('queue.procrastinate_jobs')")).fetchone()
        except psycopg.Error:
            return False
        return row is not None and row[0] is not None
