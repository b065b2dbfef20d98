"""GET /v1/runs with its filters, and states as of a version: what a list shows, and what it refuses by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from eventstore import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore
from streaming.listing import query
from tests.projection import projecting, snapshots_of, until_projected
from tests.serving import Announcer, Served, serving, serving_memory

RUNS = [
    ("b0", "shop", ["plan_started"]),
    ("b1", "shop", ["plan_started", "build_failed"]),
    ("b2", None, ["plan_started", "build_failed"]),
    ("b3", "site", ["plan_started"]),
    ("b4", "shop", ["plan_started", "build_failed"]),
]


@pytest.fixture
async def served(database: str) -> AsyncIterator[Served]:
    """Over Postgres, with a projector that has seen all of RUNS."""
    announcer = Announcer()
    async with PostgresStore(database, announce=announcer) as store:
        snapshots = snapshots_of(store)
        async with serving(store, announcer) as served, projecting(store, snapshots):
            for id_, project, types in RUNS:
                stream = StreamId("build", id_)
                data = {"projectId": project} if project else {}
                recorded = await store.append(stream, [NewEvent(type_, data) for type_ in types])
                await until_projected(snapshots, stream, recorded[-1].version)
            yield served


async def get(served: Served, path: str, code: int = 200, **params: Any) -> Any:
    answer = await served.client.get(path, params=params)
    assert answer.status_code == code, answer.text
    return answer.json()


async def ids(served: Served, **params: Any) -> list[str]:
    return [run["buildId"] for run in (await get(served, "/v1/runs", **params))["runs"]]


async def test_runs_are_listed_by_status_and_project(served: Served) -> None:
    assert await ids(served) == ["b4", "b3", "b2", "b1", "b0"]
    assert await ids(served, status="failed") == ["b4", "b2", "b1"]
    assert await ids(served, project="shop") == ["b4", "b1", "b0"]
    assert await ids(served, project="shop", status="failed") == ["b4", "b1"]
    assert await ids(served, project="nobody's") == []
    assert await ids(served, status="", project="", before="", since="") == ["b4", "b3", "b2", "b1", "b0"]


async def test_runs_are_listed_by_the_time_of_their_birth(served: Served) -> None:
    born = {line.stream.id: line.created_at for line in await served.store.recent("build")}
    assert await ids(served, since=born["b3"].isoformat()) == ["b4", "b3"]
    assert await ids(served, until=born["b3"].isoformat(), status="failed") == ["b2", "b1"]
    assert await ids(served, since=(born["b4"] + timedelta(days=2)).date().isoformat()) == []
    assert await ids(served, until="2020-01-01T00:00:00Z") == []


async def test_pages_of_a_filtered_list_join_without_a_hole(served: Served) -> None:
    first = await get(served, "/v1/runs", status="failed", limit=2)
    assert ([run["buildId"] for run in first["runs"]], first["next"]) == (["b4", "b2"], "build-b2")
    await served.store.append(StreamId("build", "new"), [NewEvent("build_failed", {"error": "x"})])
    second = await get(served, "/v1/runs", status="failed", limit=2, before=first["next"])
    assert ([run["buildId"] for run in second["runs"]], second["next"]) == (["b1"], None)


async def test_a_new_run_is_in_the_list_at_once_and_exact(served: Served) -> None:
    for number in range(20):
        await served.append(f"n{number}", "plan_started", prompt="x")
        await served.append(f"n{number}", "custom")
        newest = (await get(served, "/v1/runs", limit=1))["runs"][0]
        assert (newest["buildId"], newest["lastEventId"], newest["status"]) == (f"n{number}", 2, "planning")


async def test_each_category_has_its_list(served: Served) -> None:
    await served.store.append(StreamId("task", "t1"), [NewEvent("task_created", {"type": "mail"})])
    assert [run["id"] for run in (await get(served, "/v1/runs", category="task"))["runs"]] == ["task-t1"]


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"category": "pizza"}, 422, "there is no category 'pizza'"),
        ({"status": "hungry"}, 422, "a build is never 'hungry'"),
        ({"category": "task", "status": "planning"}, 422, "a task is never 'planning'"),
        ({"project": "x" * 129}, 422, "no project has a name of 129 characters"),
        ({"since": "yesterday"}, 400, "since is 'yesterday', not a time"),
        ({"until": "2025-13-01"}, 400, "until is '2025-13-01', not a time"),
        ({"since": "2025-01-02", "until": "2025-01-01"}, 400, "until is not later than since"),
        ({"before": "task-1"}, 400, "before is 'task-1', not the name of a build"),
        ({"before": "nonsense"}, 400, "before is 'nonsense', not the name of a build"),
        ({"before": "build-nobody"}, 404, "there is no run build-nobody"),
        ({"limit": "0"}, 400, "limit is '0'"),
    ],
)
async def test_what_cannot_be_listed_is_refused_by_name(asked: dict[str, str], code: int, words: str) -> None:
    async with serving_memory() as served:
        problem = await get(served, "/v1/runs", code, **asked)
    assert words in problem["detail"]
    assert problem["fix"]


@pytest.mark.pure
def test_times_are_read_with_or_without_a_zone() -> None:
    at = {query({"since": text}, 1).since for text in ("2025-01-02T03:04:05Z", "2025-01-02T05:04:05+02:00")}
    assert at == {query({"since": "2025-01-02T05:04:05 02:00"}, 1).since}, "a plus that was not escaped"
    assert query({"since": "2025-01-02"}, 1).since == query({"since": "2025-01-02T00:00:00Z"}, 1).since


async def test_a_state_is_told_as_of_any_version(served: Served) -> None:
    assert (await get(served, "/v1/runs/build-b1", at=1))["status"] == "planning"
    assert (await get(served, "/v1/runs/build-b1", at=2))["status"] == "failed"
    old = await get(served, "/api/builds/b1/status", at=1)
    assert (old["status"], old["lastEventId"]) == ("planning", 1)
    assert (await get(served, "/api/builds/b1/status"))["lastEventId"] == 2


async def test_a_version_that_is_not_there_is_refused_with_those_that_are(served: Served) -> None:
    for path in ("/v1/runs/build-b1", "/api/builds/b1/status"):
        problem = await get(served, path, 404, at=3)
        assert "build-b1 has come to version 2, not to 3" in problem["detail"]
        assert problem["fix"] == "Ask for a version from 1 to 2."
        for wrong in ("0", "-1", "x", "1.5"):
            await get(served, path, 400, at=wrong)
