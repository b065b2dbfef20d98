"""REST pages by type, backwards and before an event: whoever goes on as the answers say misses nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from eventstore import NewEvent, StreamId
from eventstore import page as pages
from tests.serving import F27, Served, serving_memory


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving_memory() as served:
        yield served


async def get(served: Served, **params: Any) -> Any:
    answer = await served.client.get("/api/builds/27/events", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: Any) -> list[int]:
    return [event["id"] for event in answer["events"]]


async def append(served: Served, *types: str) -> None:
    await served.store.append(StreamId("build", "27"), [NewEvent(type_) for type_ in types])


async def test_pages_of_some_types_pass_the_others_and_come_to_the_end(served: Served) -> None:
    await append(served, "a", "b", "c", "a", "b", "c", "c")
    first = await get(served, types="a,b", limit=3)
    assert (ids(first), first["lastEventId"]) == ([1, 2, 4], 4), "there may be more: no further than what is shown"
    second = await get(served, types="a,b", limit=3, lastEventId=4)
    assert (ids(second), second["lastEventId"]) == ([5], 7), "all was looked at: the cursor does not stand still"
    await append(served, "a")
    third = await get(served, types="a,b", lastEventId=7)
    assert (ids(third), third["lastEventId"]) == ([8], 8)


async def test_a_page_of_types_that_never_come_is_empty_and_moves_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(served, *["a"] * 10)
    monkeypatch.setattr(pages, "SCAN", 4)
    cursors = []
    cursor = 0
    while cursor < 10:
        answer = await get(served, types="rare", lastEventId=cursor)
        assert answer["events"] == []
        cursor = answer["lastEventId"]
        cursors.append(cursor)
    assert cursors == [4, 8, 10]


async def test_backwards_from_the_newest_page_by_page(served: Served) -> None:
    await served.client.post("/api/builds/27/events", json=F27)
    got, before = [], None
    while True:
        answer = await get(served, order="desc", limit=5, **({"before": before} if before else {}))
        assert answer["lastEventId"] == 0, "reading backwards moves no cursor"
        got += ids(answer)
        before = answer["before"]
        if before is None:
            break
    assert got == list(range(12, 0, -1))
    window = await get(served, order="desc", lastEventId=3, before=7)
    assert (ids(window), window["before"], window["lastEventId"]) == ([6, 5, 4], None, 3)


async def test_before_ends_a_page(served: Served) -> None:
    await served.client.post("/api/builds/27/events", json=F27)
    answer = await get(served, lastEventId=3, before=7)
    assert (ids(answer), answer["lastEventId"]) == ([4, 5, 6], 6)
    assert "before" not in answer
    assert (await get(served, before=1))["events"] == []


async def test_lines_of_some_types_tell_their_cursor_in_a_header(served: Served) -> None:
    await append(served, "a", "b", "b")
    answer = await served.client.get("/api/builds/27/events?types=a", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [1]
    assert answer.headers["last-event-id"] == "3"


async def test_a_long_poll_for_types_answers_at_the_next_event_with_a_cursor_that_moved(served: Served) -> None:
    await append(served, "a", "b")
    answers: list[Any] = []

    async def poll() -> None:
        answers.append(await get(served, types="a", lastEventId=1, wait=20))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            while not served.live.hub._tails:
                await anyio.lowlevel.checkpoint()
            await append(served, "a")
    assert (ids(answers[0]), answers[0]["lastEventId"]) == ([3], 3)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("types=a b", "/types"), ("types=,", "/types"), ("types=a,", "/types"), ("types=" + "x" * 51, "/types"),
        ("types=" + ",".join(f"t{n}" for n in range(51)), "/types"), ("types=a%00", "/types"),
        ("before=0", "/before"), ("before=-1", "/before"), ("before=x", "/before"), ("before=" + "9" * 17, "/before"),
        ("order=up", "/order"), ("order=DESC", "/order"),
    ],
)  # fmt: skip
async def test_a_bad_span_is_a_problem_that_names_it(served: Served, query: str, pointer: str) -> None:
    answer = await served.client.get(f"/api/builds/27/events?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert answer.json()["fix"]
