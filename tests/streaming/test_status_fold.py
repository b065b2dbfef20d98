"""Status is a fold over the log: after every event of a random log, what HTTP says is the fold of what was posted."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from eventstore.categories.build import CATEGORY, old_view
from eventstore.categories.build_vocabulary import TYPES
from eventstore.event import NewEvent
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BEGIN, recorded
from tests.projection import projecting, snapshots_of
from tests.serving import Announcer, Served, serving

PLANNING = ("build_queued", "plan_started", "plan_generated", "plan_updated", "custom", "status")
TASKS = ("task_started", "task_completed", "task_failed", "task_reset", "error")
DEPLOYING = ("build_started", "build_progress", "build_completed", "deploy_started", "deploy_progress", "run_output")
PHASES = (PLANNING, PLANNING + TASKS, PLANNING + TASKS + DEPLOYING, sorted(TYPES))
"""What may come in each quarter of a log: a bar that is full at once would tell little."""
NAMES = "abcd"


@pytest.fixture
async def served(database: str) -> AsyncIterator[Served]:
    announcer = Announcer()
    async with PostgresStore(database, announce=announcer) as store:
        snapshots = snapshots_of(store)
        async with serving(store, announcer, snapshots=snapshots) as served, projecting(store, snapshots):
            yield served


def random_log(chance: random.Random) -> list[NewEvent]:
    """Events in no sensible order; the build may end in the last quarter, and what follows its end comes too."""
    types = [chance.choice(phase) for phase in PHASES for _ in range(10)]
    return [
        NewEvent(type_, random_data(chance, type_), at=BEGIN + timedelta(seconds=second))
        for second, type_ in enumerate(types)
    ]


def random_data(chance: random.Random, type_: str) -> dict[str, Any]:
    tasks = [{"id": name, "name": f"Task {name}"} for name in chance.sample(NAMES, chance.randrange(1, 4))]
    possible = {
        "taskId": chance.choice(NAMES),
        "taskName": f"Task {chance.choice(NAMES)}",
        "progress": chance.randrange(101),
        "taskCount": chance.randrange(9),
        "plan": {"tasks": tasks},
        "message": f"Step {chance.randrange(100)}",
    }
    fields = {name: value for name, value in possible.items() if chance.random() < 0.5}
    soft = {"severity": "soft"} if type_ in ("task_failed", "error") else {}  # else it ends the build
    return fields | soft | {"previewUrl": "https://x.test/1/"}


@pytest.mark.req("K-09")
@pytest.mark.parametrize("seed", [8, 19, 30], ids=["goes on", "fails", "completes"])
async def test_status_is_the_fold_of_every_prefix_of_a_random_log(served: Served, seed: int) -> None:
    events = random_log(random.Random(seed))
    told = set()
    for count, event in enumerate(events, 1):
        body = {"type": event.type, "data": event.data, "timestamp": f"{event.at:%Y-%m-%dT%H:%M:%SZ}"}
        posted = await served.client.post("/api/builds/27/events", json=body)
        assert posted.status_code == 201, posted.text
        answer = (await served.client.get("/api/builds/27/status")).json()
        assert answer == old_view("27", CATEGORY.fold(recorded(events[:count])))
        told.add((answer["status"], answer["progress"]))
    assert len(told) > 5, "a log that tells nothing would prove nothing"
