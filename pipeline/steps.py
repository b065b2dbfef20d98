"""Steps: does one job of a build. One path for all kinds of job, made so that it may be cut off at any point.

Theory: a step begins by appending that it begins, with a number (``attempt``), at the version it has read; so of two
workers with the same job only one gets the number. It ends by appending what it did, again at the version it has
read, and only if nobody has taken a higher number meanwhile. What follows is enqueued by that same append. Between the
two a step only leaves files behind and says what it does; both may be repeated. After a conflict: read, decide again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from eventstore.admit import admit
from eventstore.categories.build import CATEGORY, FINAL, Build, Task
from eventstore.errors import Conflict, FoldstreamError, KeyReused, StepFailed, Unavailable
from eventstore.event import START, Data, Event, NewEvent, StreamId
from eventstore.fold import At
from eventstore.store import Store, replay
from pipeline.builder import Builder
from pipeline.deployer import Deployer
from pipeline.flow import Job, attempts, next_jobs
from pipeline.planner import Brief, Planner, Report, check, plan_data, planned
from pipeline.queue import Queue
from pipeline.settings import PipelineSettings
from pipeline.workspace import Workspace, workspace

log = logging.getLogger(__name__)

Said = tuple[str, Data]
"""An event in the making: its type and its data."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the log says about a job at one moment: the state, and how often the job was begun."""

    job: Job
    at: At[Build]
    attempt: int
    request_id: str | None
    traceparent: str | None

    @property
    def state(self) -> Build:
        return self.at.state

    @property
    def stream(self) -> StreamId:
        return StreamId("build", self.job.build)

    @property
    def next(self) -> tuple[Job, ...]:
        return next_jobs(self.state, self.job.build)

    @property
    def task(self) -> Task:
        """The task that the job is about."""
        return next(task for task in self.state.tasks if task.id == self.job.step)

    @property
    def brief(self) -> Brief:
        return Brief(self.job.build, str((self.state.request or {}).get("prompt") or ""))


class Steps:
    """Everything a job needs. name: the worker's, which every event carries as ``worker``."""

    def __init__(
        self,
        *,
        store: Store,
        planner: Planner,
        builder: Builder,
        deployer: Deployer,
        settings: PipelineSettings,
        name: str,
    ) -> None:
        self._store = store
        self._planner = planner
        self._builder = builder
        self._deployer = deployer
        self._settings = settings
        self._name = name

    async def run(self, job: Job, queue: Queue) -> None:
        """Do ``job`` if the log still asks for it, and leave what follows in ``queue``.

        Raises Unavailable when the store is away and CancelledError when the worker stops: then the job is to be run
        again. Whatever the step itself raises becomes an event.
        """
        while (mine := await self._begin(job, queue)) is not None:
            said, soft = await self._work(mine)
            await self._end(mine, said, queue)
            if not soft:
                return
            await asyncio.sleep(self._settings.soft_pause * 2**mine.attempt)

    async def _look(self, job: Job) -> Look:
        events = [event async for event in replay(self._store, StreamId("build", job.build))]
        cause = (events[0].request_id, events[0].traceparent) if events else (None, None)
        return Look(job, CATEGORY.fold(events), attempts(events, job), *cause)

    async def _begin(self, job: Job, queue: Queue) -> Look | None:
        """Take the job's next number; None if there is nothing to do any more."""
        while True:
            look = await self._look(job)
            if job not in look.next:
                await self._leave(look, queue)
                return None
            mine = replace(look, attempt=look.attempt + 1)
            if look.attempt >= self._settings.max_attempts:
                error = StepFailed(f"given up: the worker was lost {look.attempt} times in this step", code="LOST")
                await self._end(look, _failure(look, error), queue)
                return None
            try:
                events = self._events(mine, "began", BEGIN[job.kind](mine))
                recorded = await self._store.append(mine.stream, events, expected=look.at.version)
            except (Conflict, KeyReused):
                continue
            return replace(mine, at=CATEGORY.fold(recorded, since=look.at))

    async def _work(self, mine: Look) -> tuple[list[Said], bool]:
        """Do the step: (what to say at its end, whether it is to be tried again)."""
        settings = self._settings
        seconds = settings.deploy_timeout if mine.job.kind == "deploy" else settings.build_timeout
        try:
            async with asyncio.timeout(seconds) as limit:
                said = await WORK[mine.job.kind](self, mine, self._report(mine))
            _foresee(mine, said)  # refuses here what the store would refuse later
        except Unavailable:
            raise
        except TimeoutError as error:
            if not limit.expired():
                return self._failed(mine, error)
            over = StepFailed(
                f"the time is up: this step may take {seconds:g} s",
                code="TIMEOUT",
                fix="Ask for less at once, or raise BUILD_TIMEOUT_MS or DEPLOY_TIMEOUT_MS.",
            )
            return self._failed(mine, over)
        except Exception as error:  # noqa: BLE001 - the boundary of one job's run: whatever a step raises is its result
            return self._failed(mine, error)
        return said, False

    def _failed(self, mine: Look, error: Exception) -> tuple[list[Said], bool]:
        expected = isinstance(error, FoldstreamError)
        log.warning("%s failed: %s", mine.job.key, error or type(error).__name__, exc_info=None if expected else error)
        soft = isinstance(error, StepFailed) and error.retryable and mine.attempt < self._settings.soft_attempts
        return _failure(mine, error, soft=soft), soft

    async def _end(self, mine: Look, said: list[Said], queue: Queue) -> None:
        """Append what was done, unless somebody else has taken the job over or the build is over."""
        while True:
            look = await self._look(mine.job)
            if mine.job not in look.next or look.attempt != mine.attempt:
                log.warning("%s is not ours any more; its result is dropped", mine.job.key)
                await self._leave(look, queue)
                return
            after = _foresee(look, said)
            over = after.status in FINAL
            following = [job for job in next_jobs(after, mine.job.build) if job != mine.job]
            settle = partial(queue.settle, build=mine.job.build, jobs=following, over=over)
            try:
                events = self._events(mine, "ended", said)
                await self._store.append(mine.stream, events, expected=look.at.version, also=settle)
            except (Conflict, KeyReused):
                continue
            if over:
                self._workspace(mine).discard()
            return

    async def _leave(self, look: Look, queue: Queue) -> None:
        """Nothing to do here: make sure that what there is to do stands in the queue."""
        over = look.state.status in FINAL or not look.next
        await queue.ensure(look.job.build, look.next, over=over)
        if look.state.status in FINAL:
            self._workspace(look).discard()

    def _workspace(self, look: Look) -> Workspace:
        return workspace(self._settings.data_dir, look.job.build)

    def _events(self, mine: Look, moment: str, said: Iterable[Said]) -> list[NewEvent]:
        """Keys name the attempt, so an append whose answer was lost cannot be recorded twice."""
        start = f"{mine.job.key}:{mine.attempt}:{moment}"
        return [
            NewEvent(
                type_,
                {**data, "worker": self._name},
                key=f"{start}:{n}",
                request_id=mine.request_id,
                traceparent=mine.traceparent,
            )
            for n, (type_, data) in enumerate(said)
        ]

    def _report(self, mine: Look) -> Report:
        told = 0

        async def report(type_: str, data: Data) -> None:
            nonlocal told
            told += 1
            await self._store.append(mine.stream, self._events(mine, f"said-{told}", [(type_, data)]))

        return report

    async def _plan(self, mine: Look, report: Report) -> list[Said]:
        plan = await self._planner.plan(mine.brief, report)
        check(plan)
        return [("plan_generated", plan_data(plan))]

    async def _task(self, mine: Look, report: Report) -> list[Said]:
        outcome = await self._planner.carry_out(planned(mine.task), mine.brief, self._workspace(mine), report)
        details = {"filesCreated": list(outcome.files_created), "filesModified": list(outcome.files_modified)}
        return [("task_completed", {**_about(mine), "details": details})]

    async def _build(self, mine: Look, report: Report) -> list[Said]:
        dist = await self._builder(self._workspace(mine), report)
        sizes = [path.stat().st_size for path in dist.rglob("*") if path.is_file()]
        return [("build_completed", {"severity": "info", "files": len(sizes), "bytes": sum(sizes)})]

    async def _deploy(self, mine: Look, report: Report) -> list[Said]:
        deployment = await self._deployer(mine.job.build, self._workspace(mine).dist, report)
        return [("deploy_completed", {"previewUrl": deployment.url, "deploymentId": deployment.id, "emoji": "🎉"})]


WORK: Mapping[str, Callable[[Steps, Look, Report], Awaitable[list[Said]]]] = {
    "plan": Steps._plan,
    "task": Steps._task,
    "build": Steps._build,
    "deploy": Steps._deploy,
}


def _about(look: Look) -> dict[str, Any]:
    """How an event names the task that it is about."""
    return {"taskId": look.task.id, "taskName": look.task.name}


def _begin_plan(mine: Look) -> list[Said]:
    return [("plan_started", {"attempt": mine.attempt, "emoji": "🤔"})]


def _begin_task(mine: Look) -> list[Said]:
    taken_over: list[Said] = [("task_reset", _about(mine))] if mine.task.status == "running" else []
    return [*taken_over, ("task_started", {**_about(mine), "attempt": mine.attempt})]


def _begin_build(mine: Look) -> list[Said]:
    first: list[Said] = [("deploy_started", {"emoji": "🚀"})] if mine.attempt == 1 else []
    return [*first, ("build_started", {"attempt": mine.attempt, "severity": "info"})]


def _begin_deploy(mine: Look) -> list[Said]:
    return [("deploy_progress", {"attempt": mine.attempt, "progress": 0})]


BEGIN: Mapping[str, Callable[[Look], list[Said]]] = {
    "plan": _begin_plan,
    "task": _begin_task,
    "build": _begin_build,
    "deploy": _begin_deploy,
}
"""With which events a job of each kind begins; see `pipeline.flow.STARTS`."""

FAILED: Mapping[str, str] = {
    "plan": "build_failed",
    "task": "task_failed",
    "build": "build_failed",
    "deploy": "deploy_failed",
}


def _failure(look: Look, error: Exception, *, soft: bool = False) -> list[Said]:
    """How a step says that it failed. soft: it is tried again, and the build goes on."""
    kind = look.job.kind
    known = isinstance(error, FoldstreamError)
    text = (str(error) if known else f"{type(error).__name__}: {error}")[:300]
    data: dict[str, Any] = {
        "error": "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text),
        "code": error.code.upper().replace("-", "_") if isinstance(error, FoldstreamError) else "INTERNAL",
        "severity": "soft" if soft else "fatal",
        "retryable": error.retryable if isinstance(error, FoldstreamError) else False,
        "suggestedAction": (error.fix if isinstance(error, FoldstreamError) else FoldstreamError.fix)[:200],
        "step": kind,
        "attempt": look.attempt,
    }
    if kind == "task":
        return [("task_failed", {**data, **_about(look), "details": {"error": data["error"]}})]
    if soft:
        return [("error", {**data, "message": data["error"]})]
    return [(FAILED[kind], data)]


def _foresee(look: Look, said: Iterable[Said]) -> Build:
    """The state as it will be once ``said`` is recorded. Raises what the store would raise: Invalid, TooLarge."""
    drafts = admit(look.stream, [NewEvent(type_, data) for type_, data in said])
    now = datetime.fromtimestamp(0, UTC)  # nothing is decided by time
    events = [
        Event(look.stream, version, START, draft.type, draft.json, now)
        for version, draft in enumerate(drafts, look.at.version + 1)
    ]
    return CATEGORY.fold(events, since=look.at).state
