"""Worker: takes jobs from the queues and does them, until it is stopped. Dies at any moment without harm.

procrastinate fetches, listens and beats; `Steps` does a job. What this file adds is coming back:

- A worker that was killed beats no more: the others take its jobs back (`sweep`).
- A worker that is stopped puts its running jobs back into the queue, within about a second.
- A job row that was lost: `sweep` asks `next_jobs` again for every promised build that no job works on.
- Postgres was away: procrastinate's worker ends, and `run` starts a new one, again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job as QueuedJob
from procrastinate.jobs import Status
from procrastinate.worker import Worker as Fetcher
from psycopg_pool import PoolClosed, PoolTimeout

from eventstore.categories.build import CATEGORY, FINAL
from eventstore.errors import Unavailable
from eventstore.event import StreamId
from eventstore.store import Store, replay
from pipeline.builder import Builder
from pipeline.deployer import Deployer
from pipeline.flow import Job, next_jobs
from pipeline.planner import Planner
from pipeline.queue import QUEUES, STEP, PostgresQueue
from pipeline.settings import PipelineSettings
from pipeline.steps import Steps

log = logging.getLogger(__name__)

AWAY = (ConnectorException, psycopg.Error, PoolTimeout, PoolClosed, Unavailable, OSError)
"""How it looks when Postgres does not answer."""

STOP_WITHIN = 0.8
"""Seconds after which a stop no longer waits for anything that is still under way."""


def _words(error: BaseException) -> str:
    """One line about an outage; procrastinate hides the reason behind it."""
    cause = error.__cause__ or error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


def _ended(task: asyncio.Task[None]) -> None:
    """Look at how a task of the worker ended, also one that nobody waits for any more (the worker is being stopped)."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, AWAY):
        log.error("a task of the worker failed", exc_info=error)


class _Again(procrastinate.BaseRetryStrategy):
    """A job that was cut off (the worker stops) waits again at once; one that met an outage or our own fault, later."""

    def get_retry_decision(self, *, exception: BaseException, job: QueuedJob) -> procrastinate.RetryDecision:
        if isinstance(exception, asyncio.CancelledError):
            return procrastinate.RetryDecision()
        return procrastinate.RetryDecision(retry_in={"seconds": min(60, 2**job.attempts)})


class Worker:
    """Does the jobs of ``queues`` (default: of all kinds). name: how events and logs call it."""

    def __init__(
        self,
        *,
        store: Store,
        dsn: str,
        planner: Planner,
        builder: Builder,
        deployer: Deployer,
        settings: PipelineSettings,
        name: str,
        queues: Sequence[str] = QUEUES,
    ) -> None:
        self._store = store
        self._dsn = dsn
        self._settings = settings
        self._name = name
        self._queues = tuple(queues)
        self._steps = Steps(
            store=store, planner=planner, builder=builder, deployer=deployer, settings=settings, name=name
        )
        self._stopping = asyncio.Event()
        self._running: set[int] = set()
        self._suspects: set[int] = set()

    def stop(self) -> None:
        """Ask the worker to end; `run` returns soon after."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`. Outlives outages of Postgres; raises only what nobody foresaw."""
        pause = 0.2
        while not self._stopping.is_set():
            try:
                await self._until_stopped()
                pause = 0.2
            except AWAY as error:
                words = _words(error)
                log.warning("worker %s lost the database (%s); it tries again in %.1f s", self._name, words, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause * random.uniform(0.8, 1.2))  # noqa: S311
            pause = min(2.0, pause * 2)

    async def _until_stopped(self) -> None:
        """One life: connect, register, work; ends when asked to or when the database goes away."""
        queue = PostgresQueue(self._dsn)
        fetcher = self._fetcher(queue)
        life = asyncio.create_task(self._live(queue, fetcher))
        life.add_done_callback(_ended)
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({life, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not life.done():
                fetcher.stop()  # type: ignore[no-untyped-call]
                await asyncio.wait({life}, timeout=STOP_WITHIN)
            if not life.done():  # the database is away: whoever waits for a connection now gets none at once
                await queue.pool.close(timeout=0)
                await asyncio.wait({life}, timeout=0.2)
            if life.done():
                life.result()
        finally:
            stop.cancel()
            life.cancel()
            await asyncio.wait({life}, timeout=0.2)

    async def _live(self, queue: PostgresQueue, fetcher: Fetcher) -> None:
        async with queue.open():
            sweeping = asyncio.create_task(self._keep_sweeping(queue, fetcher))
            sweeping.add_done_callback(_ended)
            try:
                await fetcher.run()  # type: ignore[no-untyped-call]
            finally:
                sweeping.cancel()
                await asyncio.wait({sweeping})

    def _fetcher(self, queue: PostgresQueue) -> Fetcher:
        @queue.app.task(name=STEP, pass_context=True, retry=_Again())
        async def step(context: procrastinate.JobContext, kind: str, build: str, step: str) -> None:
            assert context.job.id is not None
            self._running.add(context.job.id)
            try:
                await self._steps.run(Job(kind, build, step), queue)
            finally:
                self._running.discard(context.job.id)

        # procrastinate watches its heartbeat and its listener only until the first of its side tasks ends, and its
        # periodic task ends at once where nothing is periodic. So something is: a sweep now and then.
        @queue.app.periodic(cron="0 * * * *")
        @queue.app.task(name="sweep", queue=self._queues[0], queueing_lock="sweep")
        async def sweep(timestamp: int) -> None:
            await self.sweep(queue)

        settings = self._settings
        return Fetcher(
            queue.app,
            queues=list(self._queues),  # procrastinate would write a tuple as a row
            name=self._name,
            concurrency=settings.concurrency,
            fetch_job_polling_interval=settings.poll_every,
            shutdown_graceful_timeout=settings.stop_grace,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=settings.heartbeat,
            stalled_worker_timeout=settings.stalled_after,
        )

    async def _keep_sweeping(self, queue: PostgresQueue, fetcher: Fetcher) -> None:
        """Sweep at the start and then regularly; not all workers at the same moment."""
        try:
            while True:
                await self.sweep(queue)
                await self._own_up(queue, fetcher)
                await asyncio.sleep(self._settings.sweep_every * random.uniform(0.8, 1.2))  # noqa: S311
        except AWAY as error:
            log.warning("worker %s cannot sweep (%s); it starts anew", self._name, _words(error))
            fetcher.stop()  # type: ignore[no-untyped-call]

    async def sweep(self, queue: PostgresQueue) -> None:
        """Take back the jobs of workers that are gone, and ask again what promised builds need."""
        jobs = queue.app.job_manager
        await queue.take_back(await jobs.get_stalled_jobs(seconds_since_heartbeat=self._settings.stalled_after))
        await jobs.prune_stalled_workers(self._settings.stalled_after)
        for build in await queue.forgotten():
            events = [event async for event in replay(self._store, StreamId("build", build))]
            state = CATEGORY.fold(events).state
            following = next_jobs(state, build)
            log.warning("build %s had no job; it gets %s", build, [job.key for job in following] or "none: it is over")
            await queue.ensure(build, following, over=state.status in FINAL or not following)

    async def _own_up(self, queue: PostgresQueue, fetcher: Fetcher) -> None:
        """Jobs that the queue says we are doing, and we are not: their end could not be written down in an outage."""
        ours: set[int] = set()
        if fetcher.worker_id is not None:
            doing: Any = await queue.app.job_manager.list_jobs_async(
                status=Status.DOING.value, worker_id=fetcher.worker_id
            )
            lost = [job for job in doing if job.id not in self._running and job.task_name == STEP]
            await queue.take_back(job for job in lost if job.id in self._suspects)
            ours = {job.id for job in lost}
        self._suspects = ours  # only those that look lost twice: a job is fetched a moment before it runs
