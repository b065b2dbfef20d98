"""The client against a real server: errors as they were meant, retries that record nothing twice, a follower that
comes back."""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from eventstore import NewEvent, StreamId
from eventstore.errors import (
    Conflict,
    FoldstreamError,
    Forbidden,
    Invalid,
    NotFound,
    TooMany,
    Unavailable,
    Unreachable,
    tree,
)
from eventstore.stores.memory import MemoryStore
from foldstream import client as client_module
from foldstream.answers import error_of
from foldstream.client import BACKOFF_CAP, Client, full_jitter
from streaming.problem import problem_response
from streaming.token import Signer
from tests.commandline import NOWHERE, telling, weather
from tests.serving import F27, SECRET, Announcer, Served, serving, serving_memory

TIMES = 15


def at_once(url: str, **options: Any) -> Client:
    """A client that waits no longer than it is told to."""
    return Client(url, share=lambda: 0.0, **options)


async def followed(client: Client, run: str, after: int = 0) -> list[dict[str, Any]]:
    """All that follow() gives until it ends by itself."""
    with anyio.fail_after(TIMES):
        async with aclosing(client.follow(run, after)) as events:
            return [event async for event in events]


async def record_27(served: Served) -> None:
    answer = await served.client.post("/api/builds/27/events", json=F27)
    assert answer.status_code == 201


def ids(events: list[dict[str, Any]]) -> list[int]:
    return [event["id"] for event in events]


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in tree() if kind is not Conflict], ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_it_left(kind: type[FoldstreamError]) -> None:
    sent = kind("what was wrong")
    got = _arrived(sent)
    assert (type(got), got.detail, got.fix, got.code, got.status, got.retryable) == (
        kind,
        sent.detail,
        sent.fix,
        sent.code,
        sent.status,
        sent.retryable,
    )


def test_a_conflict_arrives_with_both_versions_in_its_words() -> None:
    got = _arrived(Conflict("build-27", 3, 5))
    assert isinstance(got, Conflict)
    assert got.detail == "build-27 is at version 5, not at 3 as the append expected"


def test_the_place_and_the_waiting_time_arrive_too() -> None:
    assert _arrived(Invalid("wrong", pointer="/2/type")).pointer == "/2/type"
    assert _arrived(Unavailable("away", retry_after=7)).retry_after == 7


def _arrived(error: FoldstreamError) -> FoldstreamError:
    sent = problem_response(error)
    return error_of(answer(sent.status_code, bytes(sent.body), **dict(sent.headers)))


def answer(status: int, content: bytes = b"", **headers: str) -> httpx2.Response:
    """What a server answers to /v1/runs."""
    request = httpx2.Request("GET", f"{NOWHERE}/v1/runs?token=s")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=named, content=content, request=request)


@pytest.mark.parametrize(
    ("status", "headers", "content", "retryable", "words"),
    [
        (502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>", True, "answered 502 with text/html"),
        (404, {"content-type": "text/html"}, b"<h1>nginx</h1>", False, "not as foldstream does"),
        (404, {}, b'{"message": "no such thing"}', False, "answered 404 with nothing"),
        (429, {"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT"}, b"", True, "answered 429"),
        (500, {}, b'["a list"]', True, "answered 500"),
    ],
)
def test_a_strangers_answer_is_named_as_one(
    status: int, headers: dict[str, str], content: bytes, retryable: bool, words: str
) -> None:
    error = error_of(answer(status, content, **headers))
    assert words in error.detail
    assert "token" not in error.detail
    assert (error.status, error.retryable) == (status, retryable)
    assert "FOLDSTREAM_URL" in error.fix


def test_a_redirect_says_where_the_server_is() -> None:
    assert (
        error_of(answer(301, location="https://example.test/")).fix
        == "Set FOLDSTREAM_URL to where it points: https://example.test/"
    )


async def test_the_servers_refusals_keep_their_class() -> None:
    async with serving_memory(signer=Signer([SECRET])) as served, at_once(served.url) as client:
        with pytest.raises(Forbidden, match="this needs a token"):
            await client.state("build-27")
    async with serving_memory() as served, at_once(served.url) as client:
        with pytest.raises(NotFound, match="nothing has been recorded for build-27 yet"):
            await client.state("build-27")
        with pytest.raises(Invalid, match="400") as caught:
            await client.append("build-27", [NewEvent("status"), NewEvent("status", {"progress": 400})])
        assert caught.value.pointer == "/1/data/progress"


async def test_a_token_opens_the_door() -> None:
    signer = Signer([SECRET])
    token = signer.mint("build-27", ("read", "write"), datetime.now(UTC), "1", timedelta(minutes=1))
    async with serving_memory(signer=signer) as served, at_once(served.url, token=token) as client:
        assert await client.append("build-27", [NewEvent("run_started"), NewEvent("run_completed")]) == [1, 2]
        assert ids(await followed(client, "build-27")) == [1, 2]


# asking again ---------------------------------------------------------------------------------------------------------


async def test_a_request_is_repeated_until_it_passes() -> None:
    async with serving_memory() as served, weather(served.url, lambda n, line: "503" if n < 4 else "") as between:
        waits: list[float] = []
        async with at_once(between.url, on_wait=lambda error, seconds: waits.append(seconds)) as client:
            assert await client.append("build-27", [NewEvent("status")]) == [1]
    assert waits == [0.0, 0.0, 0.0]


async def test_a_lost_answer_records_nothing_twice() -> None:
    async with serving_memory() as served, weather(served.url, lambda n, line: "drop" if n < 3 else "") as between:
        async with at_once(between.url) as client:
            assert await client.append("build-27", [NewEvent("status"), NewEvent("status")]) == [1, 2]
            assert await client.append("build-27", [NewEvent("status")]) == [3]
        assert len(await served.store.read(StreamId("build", "27"), 0)) == 3
    assert len(between.seen) == 4


async def test_it_gives_up_after_its_attempts() -> None:
    async with weather(NOWHERE, lambda n, line: "503") as between, at_once(between.url, attempts=3) as client:
        with pytest.raises(FoldstreamError, match="answered 503"):
            await client.runs()
    assert len(between.seen) == 3


async def test_what_cannot_get_better_is_asked_once() -> None:
    async with weather(NOWHERE, lambda n, line: "404") as between, at_once(between.url) as client:
        with pytest.raises(FoldstreamError, match="answered 404"):
            await client.runs()
    assert len(between.seen) == 1


async def test_a_server_that_is_not_there_is_named() -> None:
    async with at_once(NOWHERE, attempts=2) as client:
        with pytest.raises(Unreachable, match=rf"{NOWHERE} cannot be reached") as caught:
            await client.runs()
    assert "foldstream dev" in caught.value.fix


async def test_retry_after_is_obeyed() -> None:
    class Stop(Exception):
        pass

    def on_wait(error: FoldstreamError, seconds: float) -> None:
        assert isinstance(error, TooMany)
        assert seconds == 30
        raise Stop

    async with at_once(NOWHERE, on_wait=on_wait) as client:
        with pytest.raises(Stop):
            await client._pause(1, TooMany(retry_after=30))


@pytest.mark.parametrize("attempt", [1, 2, 3, 10, 1000])
def test_waiting_grows_within_bounds(attempt: int) -> None:
    assert full_jitter(attempt, 0.0) == 0
    assert 0 < full_jitter(attempt, 1.0) <= BACKOFF_CAP
    assert full_jitter(attempt, 1.0) <= full_jitter(attempt + 1, 1.0)


# following ------------------------------------------------------------------------------------------------------------


async def test_a_finished_run_is_given_whole_and_ends() -> None:
    async with serving_memory() as served, at_once(served.url) as client:
        await record_27(served)
        events = await followed(client, "build-27")
        assert ids(events) == list(range(1, 13))
        assert events[0]["type"] == "plan_started"
        assert set(events[0]) == {"id", "type", "data", "timestamp"}
        assert ids(await followed(client, "build-27", after=9)) == [10, 11, 12]
        assert await followed(client, "build-27", after=12) == []


async def test_live_events_come_as_they_happen() -> None:
    async with serving_memory() as served, at_once(served.url) as client:
        with anyio.fail_after(TIMES):
            got = []
            async with aclosing(client.follow("build-27")) as events:
                await served.append("27", "run_started")
                async for event in events:
                    got.append(event["type"])
                    if len(got) < 4:
                        await served.append("27", "run_output" if len(got) < 3 else "run_completed")
    assert got == ["run_started", "run_output", "run_output", "run_completed"]


async def test_a_connection_that_is_cut_is_taken_up_from_the_cursor() -> None:
    async with serving_memory() as served, weather(served.url, lambda n, line: "cut" if n < 5 else "") as between:
        await served.append("27", "run_started")
        events: list[dict[str, Any]] = []
        async with at_once(between.url) as client, aclosing(client.follow("build-27")) as following:
            with anyio.fail_after(TIMES):
                async for event in following:
                    events.append(event)
                    if event["id"] < 8:
                        await served.append("27", "run_output" if event["id"] < 7 else "run_completed")
    assert ids(events) == list(range(1, 9))
    assert len(between.seen) >= 5


async def test_a_proxy_that_holds_sse_back_makes_it_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_FRAME", 0.3)
    async with serving_memory() as served, weather(served.url, _hold_sse) as between, at_once(between.url) as client:
        await served.append("27", "run_started")
        with anyio.fail_after(TIMES):
            got = []
            async with aclosing(client.follow("build-27")) as events:
                async for event in events:
                    got.append(event["id"])
                    if event["id"] < 3:
                        await served.append("27", "run_output" if event["id"] == 1 else "run_completed")
    assert got == [1, 2, 3]
    assert sum("wait=25" in line for line in between.seen) >= 2


def _hold_sse(number: int, line: str) -> str:
    return "" if "wait=" in line or not line.endswith("/events") else "hold"


async def test_polling_begins_anew_with_a_log_that_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_FRAME", 0.3)
    monkeypatch.setattr(client_module, "LONG_POLL", 1)
    async with serving_memory() as served, weather(served.url, _hold_sse) as between, at_once(between.url) as client:
        await served.append("27", "run_started", "run_completed")
        events = await followed(client, "build-27", after=40)
    assert [(event["id"], event["type"]) for event in events] == [
        (0, "reset"),
        (1, "run_started"),
        (2, "run_completed"),
    ]


async def test_a_cursor_ahead_of_the_log_begins_anew() -> None:
    async with serving_memory() as served, at_once(served.url) as client:
        await served.append("27", "run_started", "run_completed")
        events = await followed(client, "build-27", after=40)
    assert [(event["id"], event["type"]) for event in events] == [
        (0, "reset"),
        (1, "run_started"),
        (2, "run_completed"),
    ]


async def test_another_log_behind_the_same_address_begins_anew() -> None:
    """The same run at the same version, but of a log that was restored: the cursor means nothing there."""
    async with serving_memory(epoch="first") as first, weather(first.url, lambda n, line: "") as between:
        await first.append("27", "run_started", "run_output")
        announcer = Announcer()
        async with serving(MemoryStore(announce=announcer), announcer, epoch="second") as second:
            await second.append("27", "run_started", "run_output", "run_completed")
            got: list[tuple[int, str]] = []
            async with at_once(between.url) as client, aclosing(client.follow("build-27")) as events:
                with anyio.fail_after(TIMES):
                    async for event in events:
                        got.append((event["id"], event["type"]))
                        if got[-1] == (2, "run_output") and between.upstream != second.url:
                            between.upstream = second.url
                            first.live.closing.set()
                            first.live.hub.nudge()
    assert got == [
        *[(1, "run_started"), (2, "run_output"), (0, "reset")],
        *[(1, "run_started"), (2, "run_output"), (3, "run_completed")],
    ]


def sse(*ids: int, end: bytes = b"") -> bytes:
    frames = [b'id: %d\ndata: {"id":%d,"type":"status","data":{},"timestamp":null}\n\n' % (n, n) for n in ids]
    return b'event: connected\ndata: {"epoch":"e"}\n\n' + b"".join(frames) + end


CLOSED = b'event: closed\ndata: {"type":"closed"}\n\n'


async def test_what_comes_twice_is_dropped_and_a_hole_is_closed_from_the_log() -> None:
    """A server that repeats itself and leaves something out: the client asks again, at once, from what it has."""
    answers = (sse(1, 1, 2, 1, 4, 5), sse(3, 4, end=b"retry: 5\n\n") + sse(6), sse(4, 5, 6, end=CLOSED))
    async with telling(*answers, hold=True) as (url, heads), at_once(url) as client:
        assert ids(await followed(client, "build-27")) == [1, 2, 3, 4, 5, 6]
    cursors = [re.findall(r"last-event-id: (\d+)", head.lower()) for head in heads]
    assert cursors == [[], ["2"], ["4"]]


async def test_a_stream_that_breaks_off_is_not_taken_for_the_end() -> None:
    async with telling(sse(1), sse(), sse(2)[:-20], sse(2, end=CLOSED)) as (url, heads), at_once(url) as client:
        assert ids(await followed(client, "build-27")) == [1, 2]
    assert len(heads) == 4


async def test_a_server_that_never_was_there_is_not_waited_for() -> None:
    async with at_once(NOWHERE, attempts=2) as client:
        with pytest.raises(Unreachable):
            await followed(client, "build-27")


async def test_no_right_to_follow_is_an_error_and_not_a_retry() -> None:
    async with (
        serving_memory(signer=Signer([SECRET])) as served,
        weather(served.url, lambda n, line: "") as between,
        at_once(between.url) as client,
    ):
        with pytest.raises(Forbidden):
            await followed(client, "build-27")
    assert len(between.seen) == 1


async def test_nothing_comes_twice_and_nothing_is_missed_in_any_weather() -> None:
    """Connection after connection is cut or refused; the log grows all the while."""

    def fault(number: int, line: str) -> str:
        return ["cut", "503", "cut", "cut", "503", "503", "cut"][number % 7] if number < 30 else ""

    async def grow(served: Served) -> None:
        for _ in range(200):
            await served.append("27", "run_output")
            await anyio.lowlevel.checkpoint()
        await served.append("27", "run_completed")

    async with (
        serving_memory() as served,
        weather(served.url, fault) as between,
        at_once(between.url) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(grow, served)
        got = ids(await followed(client, "build-27"))
    assert got == list(range(1, 202))
    assert len(between.seen) >= 5
