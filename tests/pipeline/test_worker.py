"""Real workers on a real queue: a build runs to its end, whoever dies on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import psycopg
import pytest

from eventstore.categories.build import CATEGORY, Build
from eventstore.event import Event, NewEvent, StreamId
from eventstore.store import Store, replay
from eventstore.stores.postgres import PostgresStore
from eventstore.text import iso_millis
from pipeline.builders.command import CommandBuilder
from pipeline.builders.static import static_builder
from pipeline.deployers.local import CURRENT, LocalDeployer, previews
from pipeline.flow import Job
from pipeline.planners.template import TemplatePlanner
from pipeline.queue import QUEUES, accept
from pipeline.settings import PipelineSettings
from pipeline.worker import Worker
from tests.pipeline.worker_process import Holding

PROMPT = "Create a todo app with dark mode and search"
LIFECYCLE = [
    "build_queued",
    "plan_started",
    "plan_generated",
    *["task_started"] * 3,
    *["task_completed"] * 3,
    "deploy_started",
    "build_started",
    "build_completed",
    "deploy_progress",
    "deploy_completed",
]


async def ask(store: Store, build: str = "27", prompt: str = PROMPT) -> None:
    """What POST /build-preview does."""
    queued = NewEvent("build_queued", {"prompt": prompt, "name": "Todo", "worker": "web"})
    first = partial(accept, build=build, jobs=[Job("plan", build)])
    await store.append(StreamId("build", build), [queued], expected=0, also=first)


async def events_of(store: Store, build: str = "27") -> list[Event]:
    return [event async for event in replay(store, StreamId("build", build))]


async def state_of(store: Store, build: str = "27") -> Build:
    return CATEGORY.fold(await events_of(store, build)).state


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)
    return found


async def ended(store: Store, build: str = "27", seconds: float = 15) -> Build:
    async def is_over() -> Build | None:
        state = await state_of(store, build)
        return state if CATEGORY.is_final(state) else None

    state: Build = await until(is_over, seconds)
    return state


async def said(store: Store, type_: str, times: int = 1, build: str = "27") -> None:
    async def enough() -> bool:
        return Counter(event.type for event in await events_of(store, build))[type_] >= times

    await until(enough)


@asynccontextmanager
async def working(store: Store, dsn: str, settings: PipelineSettings, **parts: Any) -> AsyncIterator[Worker]:
    """A worker in this process."""
    chosen: dict[str, Any] = {
        "planner": TemplatePlanner(),
        "builder": static_builder(),
        "deployer": LocalDeployer(settings.data_dir, settings.public_url),
        "name": "worker-1",
    }
    worker = Worker(store=store, dsn=dsn, settings=settings, **{**chosen, **parts})
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(running, 5)


async def live_jobs(dsn: str, status: str = "") -> int:
    """How many jobs wait or run."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        asked = "select count(*) from queue.procrastinate_jobs where task_name = 'step' and status::text like %s"
        row = await (await connection.execute(asked, (status or "%",))).fetchone()
        return int(row[0]) if row else -1


async def promises(dsn: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute("select count(*) from queue.accepted")).fetchone()
        return int(row[0]) if row else -1


def assert_whole(events: list[Event]) -> None:
    """Each completion stands once; whatever was begun again, was begun again."""
    types = Counter(event.type for event in events)
    assert [types[name] for name in ("plan_generated", "build_completed", "deploy_completed")] == [1, 1, 1]
    ends = [event.data["taskId"] for event in events if event.type == "task_completed"]
    assert sorted(ends) == ["css", "html", "js"]
    assert events[-1].type == "deploy_completed"


@pytest.mark.req(
    "S0-11", "S0-12", "S0-14", "S0-15", "S0-33", "S0-36", "S0-37", "S1-11", "S1-13", "S1-14", "S2-14", "S2-22", "S2-30"
)
async def test_a_prompt_becomes_a_preview(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    async with working(store, queue_database, settings):
        await ask(store)
        state = await ended(store)
    events = await events_of(store)
    spoken = [event.type for event in events if event.type != "build_progress"]
    assert sorted(spoken[3:9]) == sorted(LIFECYCLE[3:9])
    assert [*spoken[:3], *spoken[9:]] == [*LIFECYCLE[:3], *LIFECYCLE[9:]]
    assert 8 <= len(spoken) <= 15
    stages = [event.data["stage"] for event in events if event.type == "build_progress"]
    assert list(dict.fromkeys(stages)) == ["dependencies", "compile", "optimize"]
    assert max(Counter(stages).values()) <= 2
    messages = [event.data["message"] for event in events]
    assert all(messages)
    for text in ("Analyzing requirements...", "Creating project structure...", "Installing dependencies...",
                 "Building application...", "Deploying to preview...", "Uploading..."):  # fmt: skip
        assert text in messages, text
    assert {event.data["worker"] for event in events} == {"web", "worker-1"}
    for event in events:
        frame = {
            "id": event.version,
            "type": event.type,
            "data": event.data,
            "timestamp": iso_millis(event.at),
            "buildId": "27",
        }
        assert len(orjson.dumps({**frame, "requestId": "27"})) < 1024, event.type
    by_type = {event.type: event.data for event in events}
    assert by_type["plan_generated"]["taskCount"] == 3
    assert by_type["plan_generated"]["plan"]["totalEstimatedTime"] == 5
    assert {"id", "name", "description", "estimatedDuration"} <= by_type["plan_generated"]["plan"]["tasks"][0].keys()
    assert by_type["task_completed"]["filesCreated"] == 1
    assert by_type["build_progress"]["severity"] == "info"
    assert state.preview_url == by_type["deploy_completed"]["previewUrl"] == "http://preview.test:8000/preview/27/"
    assert by_type["deploy_completed"]["deploymentId"]
    assert (state.status, state.progress) == ("completed", 100)
    assert "<title>Todo App</title>" in (previews(settings.data_dir, "27") / CURRENT / "index.html").read_text()


async def test_when_a_build_is_over_nothing_is_left_of_it_but_log_and_preview(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    async with working(store, queue_database, settings):
        await asyncio.gather(*(ask(store, str(n)) for n in range(5)))
        for n in range(5):
            assert (await ended(store, str(n))).status == "completed"

        async def empty() -> bool:
            return (await live_jobs(queue_database), await promises(queue_database)) == (0, 0)

        await until(empty)
    assert list((settings.data_dir / "workspaces").iterdir()) == []
    assert len(list((settings.data_dir / "previews").iterdir())) == 5


@pytest.mark.req("S2-85")
async def test_each_kind_of_job_can_have_its_own_worker(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    async def one(kind: str) -> AsyncIterator[Worker]:
        async with working(store, queue_database, settings, name=f"{kind}-worker", queues=(kind,)) as worker:
            yield worker

    crews = [one(kind) for kind in QUEUES]
    for crew in crews:
        await anext(crew)
    await ask(store)
    await ended(store)
    for crew in crews:
        await crew.aclose()  # type: ignore[attr-defined]
    assert {event.type: event.data["worker"] for event in await events_of(store)} == {
        "build_queued": "web",
        "plan_started": "plan-worker",
        "plan_generated": "plan-worker",
        "task_started": "task-worker",
        "task_completed": "task-worker",
        "deploy_started": "build-worker",
        "build_started": "build-worker",
        "build_progress": "build-worker",
        "build_completed": "build-worker",
        "deploy_progress": "deploy-worker",
        "deploy_completed": "deploy-worker",
    }


@pytest.mark.req("S2-54")
async def test_a_build_over_its_time_fails_with_timeout(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    program = "import time; print('[compile] endless', flush=True); time.sleep(60)"
    slow = CommandBuilder([sys.executable, "-I", "-c", program])
    quick = replace(settings, build_timeout=1.0)
    async with working(store, queue_database, quick, builder=slow):
        await ask(store)
        state = await ended(store)
    event = (await events_of(store))[-1]
    assert (state.status, event.type, event.data["code"]) == ("failed", "build_failed", "TIMEOUT")
    assert event.data["error"] == "the time is up: this step may take 1 s"


@pytest.mark.req("S0-13", "S0-16")
async def test_a_build_that_fails_says_why_and_is_not_tried_for_ever(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    class Torn(TemplatePlanner):
        async def carry_out(self, task: Any, brief: Any, workspace: Any, report: Any) -> Any:
            outcome = await super().carry_out(task, brief, workspace, report)
            if task.id == "js":
                workspace.write("app.js", "function torn() {")
            return outcome

    async with working(store, queue_database, settings, planner=Torn()):
        await ask(store)
        state = await ended(store)

        async def settled() -> bool:
            return await live_jobs(queue_database) == 0 and await promises(queue_database) == 0

        await until(settled)
    assert state.status == "failed"
    assert state.error == "app.js:1: { is never closed"
    assert Counter(event.type for event in await events_of(store))["build_started"] == 1


@pytest.mark.req("S2-32")
async def test_two_workers_racing_on_one_build_do_everything_once(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    async with working(store, queue_database, settings, name="a"), working(store, queue_database, settings, name="b"):
        await asyncio.gather(*(ask(store, str(n)) for n in range(6)))
        for n in range(6):
            await ended(store, str(n))
    for n in range(6):
        events = await events_of(store, str(n))
        assert_whole(events)
        assert "task_reset" not in {event.type for event in events}


@pytest.mark.parametrize("at", ["plan", "task", "build", "deploy"])
async def test_a_lost_job_row_heals(
    store: PostgresStore, queue_database: str, settings: PipelineSettings, at: str
) -> None:
    """Somebody empties the queue between two jobs; the promise remains, and the sweep keeps it."""
    before = [kind for kind in QUEUES if kind != at]
    async with working(store, queue_database, settings, queues=tuple(before)):
        await ask(store)

        async def waits() -> bool:
            async with await psycopg.AsyncConnection.connect(queue_database) as connection:
                found = await connection.execute(
                    "select from queue.procrastinate_jobs where queue_name = %s and status = 'todo'", (at,)
                )
                return found.rowcount > 0

        await until(waits)
    async with await psycopg.AsyncConnection.connect(queue_database) as connection:
        await connection.execute("delete from queue.procrastinate_jobs")
    async with working(store, queue_database, settings):
        await ended(store)
    assert_whole(await events_of(store))


async def test_a_job_that_nobody_does_although_its_worker_lives_is_taken_back(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    """Its end could not be written down in an outage: the row says that a living worker is at it."""
    async with working(store, queue_database, settings, queues=("deploy",)):
        await ask(store)

        async def assigned() -> bool:
            async with await psycopg.AsyncConnection.connect(queue_database) as connection:
                done = await connection.execute(
                    "update queue.procrastinate_jobs set status = 'doing', worker_id = worker.id"
                    " from queue.procrastinate_workers worker where task_name = 'step'"
                )
                return done.rowcount == 1

        await until(assigned)
        async with working(store, queue_database, settings, name="worker-2"):
            assert (await ended(store)).status == "completed"
    assert_whole(await events_of(store))


# Workers in processes of their own


SETTINGS = {"heartbeat": 0.3, "stalled_after": 1.5, "sweep_every": 0.4, "poll_every": 0.3}


class Crew:
    """Starts worker processes, and ends those that are left."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn = dsn
        self._folder = folder
        self._processes: list[Process] = []

    async def start(self, name: str, **settings: Any) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.pipeline.worker_process",
            self._dsn,
            str(self._folder),
            name,
            json.dumps(settings),
            cwd=Path(__file__).parents[2],
        )
        self._processes.append(process)
        return process

    def hold(self, kind: str) -> None:
        (self._folder / f"hold-{kind}").touch()

    def release(self, kind: str) -> None:
        (self._folder / f"hold-{kind}").unlink()

    async def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
async def crew(queue_database: str, tmp_path: Path) -> AsyncIterator[Crew]:
    crew = Crew(queue_database, tmp_path)
    yield crew
    await crew.end()


STARTS = {
    "plan": ("plan_started", 1),
    "task": ("task_started", 3),
    "build": ("build_started", 1),
    "deploy": ("deploy_progress", 1),
}


@pytest.mark.live
@pytest.mark.req("S2-32")
@pytest.mark.parametrize("kind", ["plan", "task", "build", "deploy"])
async def test_a_worker_killed_in_the_middle_is_replaced(store: PostgresStore, crew: Crew, kind: str) -> None:
    crew.hold(kind)
    first = await crew.start("first", **SETTINGS)
    await ask(store)
    await said(store, *STARTS[kind])
    first.kill()
    await first.wait()
    crew.release(kind)
    await crew.start("second", **SETTINGS)
    assert (await ended(store)).status == "completed"
    events = await events_of(store)
    assert_whole(events)
    type_, times = STARTS[kind]
    begun = [(event.data["attempt"], event.data["worker"]) for event in events if event.type == type_]
    assert begun == [*[(1, "first")] * times, *[(2, "second")] * times]
    resets = [event.data["taskId"] for event in events if event.type == "task_reset"]
    assert sorted(resets) == (["css", "html", "js"] if kind == "task" else [])


@pytest.mark.live
async def test_with_ordinary_settings_a_build_goes_on_within_ten_seconds_of_a_restart(
    store: PostgresStore, crew: Crew
) -> None:
    crew.hold("task")
    first = await crew.start("first")
    await ask(store)
    await said(store, "task_started", 3)
    first.kill()
    await first.wait()
    crew.release("task")
    restarted = time.monotonic()
    await crew.start("second")
    await said(store, "task_reset")
    assert time.monotonic() - restarted < 10
    await ended(store)
    assert_whole(await events_of(store))


@pytest.mark.live
@pytest.mark.parametrize("kind", ["task", "build"])
async def test_a_worker_that_is_stopped_hands_its_jobs_over(
    store: PostgresStore, queue_database: str, crew: Crew, kind: str
) -> None:
    crew.hold(kind)
    first = await crew.start("first")
    await ask(store)
    await said(store, *STARTS[kind])
    asked = time.monotonic()
    first.terminate()
    assert await asyncio.wait_for(first.wait(), 5) == 0
    assert time.monotonic() - asked < 1.5
    assert await live_jobs(queue_database, "todo") == STARTS[kind][1]
    crew.release(kind)
    restarted = time.monotonic()
    await crew.start("second")
    assert (await ended(store)).status == "completed"
    assert time.monotonic() - restarted < 6  # nobody has to be given up for dead first
    assert_whole(await events_of(store))


@pytest.mark.live
async def test_workers_that_die_one_after_the_other_do_not_stop_the_builds(store: PostgresStore, crew: Crew) -> None:
    """Killed again and again, at moments nobody chose."""
    builds = [str(n) for n in range(4)]
    for build in builds:
        await ask(store, build)
    for n in range(5):
        process = await crew.start(f"w{n}", **SETTINGS)

        async def moves(count: int = sum([len(await events_of(store, build)) for build in builds])) -> bool:
            return sum([len(await events_of(store, build)) for build in builds]) > count + 3

        try:
            await until(moves, 8)
        except AssertionError:
            break  # everything is done already
        process.kill()
        await process.wait()
    await crew.start("last", **SETTINGS)
    for build in builds:
        assert (await ended(store, build, 25)).status == "completed"
        assert_whole(await events_of(store, build))


@pytest.mark.live
async def test_a_worker_that_was_only_asleep_finds_its_job_taken(store: PostgresStore, crew: Crew) -> None:
    """Frozen past its time (a laptop that was closed): another does its job; waking up, it breaks nothing."""
    crew.hold("task")
    first = await crew.start("first", **SETTINGS)
    await ask(store)
    await said(store, "task_started", 3)
    os.kill(first.pid, signal.SIGSTOP)
    await crew.start("second", **SETTINGS)
    await said(store, "task_reset", 3)
    os.kill(first.pid, signal.SIGCONT)
    crew.release("task")
    assert (await ended(store)).status == "completed"
    assert_whole(await events_of(store))
    await ask(store, "28")
    assert (await ended(store, "28")).status == "completed"
    assert_whole(await events_of(store, "28"))


# Postgres goes away


class Door:
    """A way to Postgres that can be shut: what a restart of the server, or a cut cable, looks like from a client."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def dsn(self) -> str:
        parts = urlsplit(self._target)
        user = parts.username or "postgres"
        return f"postgresql://{user}{f':{parts.password}' if parts.password else ''}@127.0.0.1:{self.port}{parts.path}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._target)
        folder = parse_qs(parts.query).get("host", [""])[0]
        if folder:
            inner = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{parts.port or 5432}")
        else:
            inner = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        self._writers |= {writer, inner[1]}

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                pass
            finally:
                target.transport.abort()

        await asyncio.gather(copy(reader, inner[1]), copy(inner[0], writer))


@pytest.fixture
async def door(queue_database: str) -> AsyncIterator[Door]:
    door = Door(queue_database)
    await door.open()
    yield door
    await door.shut()


@pytest.mark.live
async def test_a_worker_outlives_an_outage_of_postgres(
    store: PostgresStore, door: Door, settings: PipelineSettings, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Holding(settings)
    hold = settings.data_dir / "hold-task"
    hold.touch()
    caplog.set_level(logging.WARNING, "pipeline")
    async with PostgresStore(door.dsn) as far, working(far, door.dsn, settings, planner=parts):
        await ask(store)
        await said(store, "task_started", 3)
        await door.shut()

        async def noticed() -> bool:
            return "lost the database" in caplog.text

        await until(noticed)
        hold.unlink()
        await door.open()
        assert (await ended(store)).status == "completed"
        assert_whole(await events_of(store))
        await ask(store, "28")  # and it goes on as before
        assert (await ended(store, "28", 5)).status == "completed"


@pytest.mark.live
async def test_an_outage_so_short_that_nobody_noticed_loses_no_job(
    store: PostgresStore, door: Door, settings: PipelineSettings
) -> None:
    async with PostgresStore(door.dsn) as far, working(far, door.dsn, settings):
        for n in range(6):
            await ask(store, str(n))
            await said(store, "plan_started", 1, str(n))
            await door.shut()
            await door.open()
        for n in range(6):
            assert (await ended(store, str(n))).status == "completed"
            assert_whole(await events_of(store, str(n)))


@pytest.mark.live
async def test_a_worker_stops_at_once_while_postgres_is_away(
    store: PostgresStore, door: Door, settings: PipelineSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pipeline")
    async with PostgresStore(door.dsn) as far:
        async with working(far, door.dsn, settings):
            await ask(store)
            await ended(store)
            await door.shut()

            async def noticed() -> bool:
                return "lost the database" in caplog.text

            await until(noticed)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 1.5


async def test_a_worker_can_be_stopped_before_it_has_begun(
    store: PostgresStore, queue_database: str, settings: PipelineSettings
) -> None:
    started = time.monotonic()
    async with working(store, queue_database, settings) as worker:
        worker.stop()
    assert time.monotonic() - started < 1.5
