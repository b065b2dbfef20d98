"""service: the wiring. The only place where the log, the live ends and the pipeline meet.

    PostgresStore --announce--> Hub --> tails --> transports          (streaming reads the log)
                  --announce--> projector --> snapshots --> States    (what is folded, kept)
    routes, worker --append---> PostgresStore                         (pipeline writes it)

`open_service` builds it all around one store and carries its background tasks; `foldstream.serve` puts a server before
it.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
from starlette.applications import Starlette
from ulid import ULID

from eventstore.event import Event, StreamId
from eventstore.projector import projector
from eventstore.states import States
from eventstore.store import Announce
from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.snapshots import PostgresSnapshots
from foldstream.health import look
from foldstream.services import Services
from foldstream.settings import LOOPBACK, Settings
from pipeline.pipeline import Pipeline
from pipeline.settings import PipelineSettings
from streaming.app import create_app
from streaming.bus import Bus
from streaming.buses.lossy import LossyBus
from streaming.buses.redis import RedisBus
from streaming.guard import READ, WRITE, Guard
from streaming.hub import Hub
from streaming.live import Limits, Live
from streaming.metrics import Metrics
from streaming.token import Signer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """An open service: the application to serve, and what the commands need of it."""

    app: Starlette
    live: Live
    pipeline: Pipeline

    def begin_closing(self) -> None:
        """The server is about to go down: live connections say goodbye now."""
        self.live.closing.set()
        self.live.hub.nudge()


def now() -> datetime:
    """The clock of the service."""
    return datetime.now(UTC)


def new_id() -> str:
    """A new id: a ULID, 26 characters that sort by time."""
    return str(ULID())


@asynccontextmanager
async def open_service(settings: Settings, services: Services) -> AsyncIterator[Service]:
    """Open the store, watch the bus, build the application. The database must be migrated. Raises CannotStart."""
    metrics = Metrics()
    announce = Announcements()
    store = PostgresStore(services.database_url, announce=announce, max_data_bytes=settings.max_data_bytes)
    async with store, anyio.create_task_group() as tasks:
        epoch = await store.epoch()
        snapshots = PostgresSnapshots(store.connections)
        states = States(store, snapshots)
        hub = Hub(store, states, _bus(settings, services, epoch, metrics), metrics)
        follower = projector(store, snapshots, PostgresCursors(store.connections), owner=new_id())
        announce.to = (hub.announce, follower.nudge)
        metrics.watch(follower.name, lambda: follower.lag, lambda: follower.is_active)
        signer = Signer(settings.jwt_secrets or (_own_secret(settings.data_dir),))
        live = Live(
            store=store,
            index=store,
            states=states,
            hub=hub,
            guard=Guard(signer if settings.auth else None, now),
            metrics=metrics,
            epoch=epoch,
            now=now,
            origins=settings.origins,
            limits=Limits(body_bytes=settings.body_bytes, heartbeat=settings.heartbeat),
        )
        pipeline = Pipeline(store, states, services.database_url, _pipeline_settings(settings))

        def mint(stream: StreamId) -> str:
            return signer.mint(str(stream), (READ, WRITE), now(), new_id())

        async def postgres() -> bool:
            await store.ping()
            return True

        async def redis() -> bool:
            return metrics.bus_is_heard

        app = create_app(
            live,
            checks=partial(look, {"postgres": postgres, "redis": redis, "queue": pipeline.is_alive}),
            new_id=new_id,
            more_routes=pipeline.routes(mint=mint, new_id=new_id, allow=live.guard.allow_request),
            hosts=settings.hosts or (LOOPBACK_NAMES if settings.is_loopback and not settings.auth else ()),
        )
        tasks.start_soon(hub.run)
        tasks.start_soon(follower.run)
        try:
            yield Service(app, live, pipeline)
        finally:
            tasks.cancel_scope.cancel()


LOOPBACK_NAMES = (*LOOPBACK, "[::1]")


class Announcements:
    """What the store calls after a commit. The store exists before those who listen do; the first append after all."""

    to: tuple[Announce, ...] = ()

    def __call__(self, events: Sequence[Event]) -> None:
        for announce in self.to:
            announce(events)


def _bus(settings: Settings, services: Services, epoch: str, metrics: Metrics) -> Bus:
    bus = RedisBus(services.redis_url, f"foldstream:{epoch[:8]}", metrics, jitter=lambda: random.uniform(0.5, 1))  # noqa: S311
    if not settings.drop_rings:
        return bus
    log.warning("FAULT_DROP_RINGS is set: %d %% of the bus messages are thrown away", round(settings.drop_rings * 100))
    return LossyBus(bus, lambda: random.random() < settings.drop_rings)  # noqa: S311


def _own_secret(data_dir: Path) -> str:
    """The secret of a server that was given none: made once, kept in the data folder for its owner only."""
    path = data_dir / "secret"
    data_dir.mkdir(parents=True, exist_ok=True)
    if not (path.exists() and path.read_text().strip()):
        descriptor, draft = tempfile.mkstemp(dir=data_dir, prefix=".secret")  # readable by its owner only
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        if path.exists() and not path.read_text().strip():
            path.unlink()  # of a start that was cut off
        with suppress(FileExistsError):  # another server was first: its secret is everybody's
            os.link(draft, path)
        os.unlink(draft)
    return path.read_text().strip()


def _pipeline_settings(settings: Settings) -> PipelineSettings:
    return PipelineSettings(
        data_dir=settings.data_dir,
        public_url=settings.public_url,
        build_timeout=settings.build_timeout,
        deploy_timeout=settings.deploy_timeout,
        concurrency=settings.worker_concurrency,
    )
