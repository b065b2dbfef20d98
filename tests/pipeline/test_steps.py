"""One job, done against the log: what it says, what it leaves in the queue, and what it does when others race it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventstore.categories.build import CATEGORY, Build
from eventstore.errors import StepFailed, Unavailable
from eventstore.event import Data, Event, NewEvent, StreamId
from eventstore.store import replay
from eventstore.stores.memory import MemoryStore
from pipeline.deployer import Deployment
from pipeline.flow import Job
from pipeline.planner import Brief, Outcome, Plan, PlannedTask, Report
from pipeline.settings import PipelineSettings
from pipeline.steps import Steps
from pipeline.workspace import Workspace

pytestmark = pytest.mark.pure

STREAM = StreamId("build", "27")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PLAN = Job("plan", "27")


class ListQueue:
    """The queue's twin: what waits, in order; and whether the promise still stands."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.over = False

    async def settle(self, connection: Any, build: str, jobs: Iterable[Job], *, over: bool) -> None:
        self.waiting += [job for job in sorted(jobs) if job not in self.waiting]
        self.over = self.over or over

    async def ensure(self, build: str, jobs: Iterable[Job], *, over: bool) -> None:
        await self.settle(None, build, jobs, over=over)


class Maker:
    """Planner, builder and deployer in one. before: called with the name of each piece of work before it is done."""

    def __init__(self) -> None:
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.tasks = (PlannedTask("a", "Create A", "", 1), PlannedTask("b", "Create B", "", 2, ("a",)))
        self.did: list[str] = []

    async def _do(self, name: str) -> None:
        self.did.append(name)
        if self.before:
            await self.before(name)

    async def plan(self, brief: Brief, report: Report) -> Plan:
        await self._do("plan")
        assert brief == Brief("27", "todo app")
        return Plan("p", "Todo", self.tasks)

    async def carry_out(self, task: PlannedTask, brief: Brief, workspace: Workspace, report: Report) -> Outcome:
        await self._do(task.id)
        assert task in self.tasks
        workspace.write(f"{task.id}.txt", task.name)
        return Outcome(files_created=[f"{task.id}.txt"])

    async def build(self, workspace: Workspace, report: Report) -> Path:
        await self._do("build")
        await report("build_progress", {"stage": "compile", "logs": workspace.files()})
        workspace.dist.mkdir(exist_ok=True)
        (workspace.dist / "index.html").write_text("x" * 10)
        return workspace.dist

    async def deploy(self, build: str, files: Path, report: Report) -> Deployment:
        await self._do("deploy")
        return Deployment(f"https://x.test/{build}/", "d1")


class Line:
    """A pipeline on a memory store."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.queue = ListQueue()
        self.maker = Maker()
        self.settings = PipelineSettings(data_dir=folder, public_url="http://x", soft_pause=0)

    def steps(self, name: str = "w1") -> Steps:
        return Steps(
            store=self.store,
            planner=self.maker,
            builder=self.maker.build,
            deployer=self.maker.deploy,
            settings=self.settings,
            name=name,
        )

    async def ask(self) -> None:
        queued = NewEvent("build_queued", {"prompt": "todo app", "name": "Todo"}, request_id="r-1", traceparent=TRACE)
        await self.store.append(STREAM, [queued])
        self.queue.waiting.append(PLAN)

    async def do_next(self, name: str = "w1") -> Job:
        job = self.queue.waiting.pop(0)
        await self.steps(name).run(job, self.queue)
        return job

    async def finish(self) -> None:
        while self.queue.waiting:
            await self.do_next()

    async def events(self) -> list[Event]:
        return [event async for event in replay(self.store, STREAM)]

    async def types(self) -> list[str]:
        return [event.type for event in await self.events()]

    async def state(self) -> Build:
        return CATEGORY.fold(await self.events()).state


@pytest.fixture
async def line(tmp_path: Path) -> Line:
    line = Line(tmp_path)
    await line.ask()
    return line


WHOLE = [
    "build_queued",
    "plan_started",
    "plan_generated",
    "task_started",
    "task_completed",
    "task_started",
    "task_completed",
    "deploy_started",
    "build_started",
    "build_progress",
    "build_completed",
    "deploy_progress",
    "deploy_completed",
]


@pytest.mark.req("S0-11", "S0-12", "S0-14", "S0-15", "S1-11", "S2-30")
async def test_a_build_runs_from_its_first_job_to_its_last(line: Line) -> None:
    await line.finish()
    events = await line.events()
    assert [event.type for event in events] == WHOLE
    assert {event.data["worker"] for event in events[1:]} == {"w1"}
    assert {(event.request_id, event.traceparent) for event in events} == {("r-1", TRACE)}
    state = await line.state()
    assert (state.status, state.progress, state.preview_url) == ("completed", 100, "https://x.test/27/")
    assert line.queue.over
    assert events[4].data["details"]["filesCreated"] == ["a.txt"]
    assert events[4].data["filesCreated"] == 1
    assert (events[10].data["files"], events[10].data["bytes"]) == (1, 10)
    assert not (line.settings.data_dir / "workspaces" / "27").exists()


async def test_a_job_that_is_done_already_only_makes_sure_of_the_next(line: Line) -> None:
    await line.do_next()
    before = await line.types()
    line.queue.waiting.clear()  # its rows were lost
    await line.steps().run(PLAN, line.queue)
    assert await line.types() == before
    assert line.queue.waiting == [Job("task", "27", "a")]


async def test_a_job_of_a_build_that_nobody_asked_for_does_nothing(line: Line) -> None:
    await line.steps().run(Job("plan", "99"), line.queue)
    assert line.maker.did == []
    assert line.queue.over


@pytest.mark.req("S2-32")
@pytest.mark.parametrize("at", ["plan", "a", "b", "build", "deploy"])
async def test_a_job_cut_off_anywhere_is_begun_again_and_ends_once(line: Line, at: str) -> None:
    """The worker dies in the middle: nothing is written about it, the job simply waits again."""
    cut = False

    async def die_once(name: str) -> None:
        nonlocal cut
        if name == at and not cut:
            cut = True
            raise asyncio.CancelledError

    line.maker.before = die_once
    while line.queue.waiting:
        job = line.queue.waiting[0]
        try:
            await line.do_next("w1" if not cut else "w2")
        except asyncio.CancelledError:
            line.queue.waiting.insert(0, job)
    types = await line.types()
    for ending in ("plan_generated", "build_completed", "deploy_completed"):
        assert types.count(ending) == 1
    assert types.count("task_completed") == 2
    assert types.count("task_reset") == (1 if at in {"a", "b"} else 0)
    assert types.count("deploy_started") == 1
    assert (await line.state()).status == "completed"
    again = [event.data for event in await line.events() if event.data.get("attempt") == 2]
    assert len(again) == 1
    assert again[0]["worker"] == "w2"


async def test_who_has_lost_a_job_cannot_end_it(line: Line) -> None:
    """The first worker sleeps, the second takes over and ends; what the first brings then is dropped."""
    await line.do_next()
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleep_first(name: str) -> None:
        if name == "a" and not asleep.is_set():
            asleep.set()
            await wake.wait()

    line.maker.before = sleep_first
    job = line.queue.waiting[0]
    first = asyncio.create_task(line.steps("first").run(job, line.queue))
    await asleep.wait()
    await line.steps("second").run(job, line.queue)
    wake.set()
    await first
    ends = [event.data for event in await line.events() if event.type == "task_completed"]
    assert [(end["taskId"], end["worker"]) for end in ends] == [("a", "second")]
    await line.finish()
    assert (await line.state()).status == "completed"


async def test_who_has_lost_a_job_that_goes_on_elsewhere_cannot_end_it_either(line: Line) -> None:
    await line.do_next()
    job = line.queue.waiting[0]
    doors = [asyncio.Event(), asyncio.Event()]
    inside: list[str] = []

    async def wait_in_turn(name: str) -> None:
        inside.append(name)
        await doors[len(inside) - 1].wait()

    async def reached(count: int) -> None:
        while len(inside) < count:
            await asyncio.sleep(0)

    line.maker.before = wait_in_turn
    first = asyncio.create_task(line.steps("first").run(job, line.queue))
    await reached(1)
    second = asyncio.create_task(line.steps("second").run(job, line.queue))
    await reached(2)
    doors[0].set()
    await first
    assert "task_completed" not in await line.types()
    doors[1].set()
    await second
    ends = [event.data["worker"] for event in await line.events() if event.type == "task_completed"]
    assert ends == ["second"]


async def test_of_two_that_begin_at_once_each_gets_its_own_number(line: Line) -> None:
    await asyncio.gather(*(line.steps(f"w{n}").run(PLAN, line.queue) for n in range(5)))
    events = await line.events()
    numbers = [event.data["attempt"] for event in events if event.type == "plan_started"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event.type for event in events].count("plan_generated") == 1
    assert line.queue.waiting.count(Job("task", "27", "a")) == 1


@pytest.mark.req("S2-85")
async def test_tasks_that_end_together_ask_for_the_build_once(line: Line) -> None:
    line.maker.tasks = tuple(PlannedTask(name, name, "", 1) for name in "abcdefgh")
    await line.do_next()
    asked: list[Job] = []

    class Counting(ListQueue):
        async def settle(self, connection: Any, build: str, jobs: Iterable[Job], *, over: bool) -> None:
            asked.extend(job for job in jobs if job.kind == "build")
            await super().settle(connection, build, jobs, over=over)

    together = asyncio.Barrier(8)
    line.maker.before = lambda name: together.wait()  # type: ignore[assignment,return-value]
    queue = Counting()
    await asyncio.gather(*(line.steps().run(job, queue) for job in line.queue.waiting))
    assert asked == [Job("build", "27")]


@pytest.mark.req("S0-13", "S0-16")
@pytest.mark.parametrize(
    ("at", "type_"),
    [("plan", "build_failed"), ("a", "task_failed"), ("build", "build_failed"), ("deploy", "deploy_failed")],
)
async def test_whatever_a_step_raises_ends_the_build_in_words(line: Line, at: str, type_: str) -> None:
    async def fail(name: str) -> None:
        if name == at:
            raise ValueError("it broke\x00\x1b[31m" + "x" * 1000)

    line.maker.before = fail
    await line.finish()
    event = (await line.events())[-1]
    assert event.type == type_
    assert event.data["error"].startswith("ValueError: it broke  [31mxxx")
    assert (event.data["severity"], event.data["retryable"], event.data["code"]) == ("fatal", False, "INTERNAL")
    assert event.data["suggestedAction"]
    assert event.data["message"]
    assert len(event.json) < 1024
    assert (await line.state()).status == "failed"
    assert line.queue.over
    assert line.queue.waiting == []
    assert not (line.settings.data_dir / "workspaces" / "27").exists()


async def test_a_step_may_say_what_to_do(line: Line) -> None:
    async def fail(name: str) -> None:
        if name == "build":
            raise StepFailed("app.js:3: } closes nothing", code="BUILD", fix="Close it.")

    line.maker.before = fail
    await line.finish()
    data = (await line.events())[-1].data
    assert (data["error"], data["code"], data["suggestedAction"]) == (
        "app.js:3: } closes nothing",
        "BUILD",
        "Close it.",
    )


@pytest.mark.req("S2-54", "S2-55")
@pytest.mark.parametrize(
    ("at", "type_"), [("plan", "build_failed"), ("build", "build_failed"), ("deploy", "deploy_failed")]
)
async def test_a_step_that_takes_too_long_fails_with_timeout(line: Line, at: str, type_: str) -> None:
    async def hang(name: str) -> None:
        if name == at:
            await asyncio.Event().wait()

    line.maker.before = hang
    line.settings = replace(line.settings, build_timeout=0.05, deploy_timeout=0.05)
    await line.finish()
    event = (await line.events())[-1]
    assert (event.type, event.data["code"]) == (type_, "TIMEOUT")


async def test_a_timeout_of_the_step_itself_is_not_ours(line: Line) -> None:
    async def fail(name: str) -> None:
        raise TimeoutError("the model did not answer")

    line.maker.before = fail
    await line.finish()
    data = (await line.events())[-1].data
    assert (data["code"], data["error"]) == ("INTERNAL", "TimeoutError: the model did not answer")


@pytest.mark.req("S2-25")
async def test_a_soft_failure_is_tried_again_and_the_build_goes_on(line: Line) -> None:
    async def stumble(name: str) -> None:
        if name in {"a", "deploy"} and line.maker.did.count(name) == 1:
            raise StepFailed("overloaded", code="OVERLOADED", retryable=True)

    line.maker.before = stumble
    await line.finish()
    events = await line.events()
    soft = [(event.type, event.data["severity"], event.data["retryable"]) for event in events if "error" in event.data]
    assert soft == [("task_failed", "soft", True), ("error", "soft", True)]
    assert (await line.state()).status == "completed"


async def test_nothing_is_tried_for_ever(line: Line) -> None:
    async def stumble(name: str) -> None:
        raise StepFailed("overloaded", retryable=True)

    line.maker.before = stumble
    line.settings = replace(line.settings, soft_attempts=2)
    await line.finish()
    assert line.maker.did == ["plan", "plan"]
    assert (await line.types())[-1] == "build_failed"


async def test_a_step_that_kills_its_workers_is_given_up(line: Line) -> None:
    async def die(name: str) -> None:
        raise asyncio.CancelledError

    line.maker.before = die
    line.settings = replace(line.settings, max_attempts=3)
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            await line.steps().run(PLAN, line.queue)
    await line.steps().run(PLAN, line.queue)
    assert line.maker.did == ["plan"] * 3
    event = (await line.events())[-1]
    assert (event.type, event.data["code"]) == ("build_failed", "LOST")
    assert "3 times" in event.data["error"]


async def test_an_outage_is_nobodys_failure(line: Line) -> None:
    async def away(name: str) -> None:
        raise Unavailable("Postgres is away")

    line.maker.before = away
    with pytest.raises(Unavailable):
        await line.steps().run(PLAN, line.queue)
    assert await line.types() == ["build_queued", "plan_started"]


async def test_what_the_log_would_refuse_is_a_failure_of_the_step(line: Line) -> None:
    line.maker.tasks = (PlannedTask("a", "A\x00", "", 1),)
    await line.finish()
    event = (await line.events())[-1]
    assert (event.type, event.data["code"]) == ("build_failed", "INVALID")


async def test_a_plan_that_runs_in_a_circle_is_refused(line: Line) -> None:
    line.maker.tasks = (PlannedTask("a", "A", "", 1, ("b",)), PlannedTask("b", "B", "", 1, ("a",)))
    await line.finish()
    assert "can never begin" in (await line.state()).error or ""


async def test_a_build_that_ends_meanwhile_stays_ended(line: Line) -> None:
    async def cancel(name: str) -> None:
        if name == "a":
            await line.store.append(STREAM, [NewEvent("run_cancelled")])

    line.maker.before = cancel
    await line.finish()
    assert (await line.types())[-1] == "run_cancelled"
    assert (await line.state()).status == "cancelled"
    assert line.queue.over


async def test_progress_is_told_while_the_work_goes_on(line: Line) -> None:
    seen: list[str] = []

    async def look(name: str) -> None:
        seen.append((await line.types())[-1])

    line.maker.before = look
    await line.finish()
    assert seen == ["plan_started", "task_started", "task_started", "build_started", "deploy_progress"]


async def test_a_report_the_log_refuses_fails_the_step(line: Line) -> None:
    async def wrong(workspace: Workspace, report: Report) -> Path:
        data: Data = {"progress": 1000}
        await report("build_progress", data)
        raise AssertionError("unreachable")

    line.maker.build = wrong  # type: ignore[method-assign]
    await line.finish()
    assert (await line.events())[-1].data["code"] == "INVALID"
