"""Who may do what: tokens on every transport, origins, host names; and tokens themselves, with a clock as argument."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import jwt
import orjson
import pytest

from eventstore import StreamId
from eventstore.errors import CannotStart, Forbidden
from streaming import wire
from streaming.token import Signer
from tests.serving import SECRET, Served, connected, serving_memory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = "another secret of tests, of thirty-two bytes too"


def claims(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {"iss": "foldstream", "sub": "build-27", "scope": "read", "exp": 2_000_000_000}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


@pytest.mark.req("S2-27")
def test_a_token_is_for_one_build_and_one_hour() -> None:
    token = Signer([SECRET]).mint("build-27", ["read", "write"], NOW, "id-1")
    told = jwt.decode(token, options={"verify_signature": False})
    assert told["buildId"] == "27"
    assert told["exp"] - told["iat"] == 3600


@pytest.mark.parametrize(
    ("minutes", "subject", "scope", "allowed"),
    [
        (0, "build-27", "read", True),
        (59, "build-27", "write", True),
        (61, "build-27", "read", False),
        (0, "build-28", "read", False),
        (0, "build-2", "read", False),
        (0, "*", "read", False),
        (0, "build-27", "admin", False),
    ],
)
def test_a_token_opens_what_it_was_made_for(minutes: int, subject: str, scope: str, allowed: bool) -> None:
    signer = Signer([SECRET])
    token = signer.mint("build-27", ["read", "write"], NOW, "id-1")
    if allowed:
        signer.verify(token, subject, scope, NOW + timedelta(minutes=minutes))
    else:
        with pytest.raises(Forbidden):
            signer.verify(token, subject, scope, NOW + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "x" * 5000,
        jwt.encode(claims(), OTHER, "HS256"),
        jwt.encode(claims(), SECRET, "HS512"),
        jwt.encode(claims(), None, "none"),
        jwt.encode(claims(exp=None), SECRET, "HS256"),
        jwt.encode(claims(sub=None), SECRET, "HS256"),
        jwt.encode(claims(iss="somebody"), SECRET, "HS256"),
        jwt.encode(claims(iss=None), SECRET, "HS256"),
        jwt.encode(claims(exp="soon"), SECRET, "HS256"),
        jwt.encode(claims(scope=None), SECRET, "HS256"),
    ],
)
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(Forbidden):
        Signer([SECRET]).verify(token, "build-27", "read", NOW)


def test_during_a_rotation_both_secrets_open_and_the_new_one_signs() -> None:
    old = Signer([OTHER]).mint("build-27", ["read"], NOW, "1")
    both = Signer([SECRET, OTHER])
    both.verify(old, "build-27", "read", NOW)
    Signer([SECRET]).verify(both.mint("build-27", ["read"], NOW, "2"), "build-27", "read", NOW)


def test_a_short_secret_is_refused_at_the_start() -> None:
    with pytest.raises(CannotStart, match="32"):
        Signer(["short"])
    assert SECRET not in repr(Signer([SECRET]))


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    async with serving_memory(signer=Signer([SECRET]), origins=("https://app.example",)) as served:
        await served.append("27", "plan_started", "run_completed")
        yield served


def token(subject: str = "build-27", *scopes: str) -> str:
    return Signer([SECRET]).mint(subject, scopes or ("read", "write"), datetime.now(UTC), "1")


PATHS = [
    "/api/builds/27/events",
    "/api/builds/27/status",
    "/events/27",
    "/v1/runs/build-27",
    "/v1/runs/build-27/events",
]


@pytest.mark.req("S2-79", "S2-07", "S2-12")
@pytest.mark.parametrize("path", PATHS)
async def test_reading_needs_a_token_for_this_build(guarded: Served, path: str) -> None:
    good, other = token(), token("build-28")
    assert (await guarded.client.get(path)).status_code == 403
    assert (await guarded.client.get(path, headers={"Authorization": f"Bearer {other}"})).status_code == 403
    assert (await guarded.client.get(path, headers={"Authorization": f"Basic {good}"})).status_code == 403
    assert (await guarded.client.get(path, headers={"Authorization": f"Bearer {good}"})).status_code == 200
    assert (await guarded.client.get(path, params={"token": good})).status_code == 200
    assert (await guarded.client.get(path, params={"token": token("*")})).status_code == 200


async def test_writing_needs_the_right_to_write(guarded: Served) -> None:
    async def post(token_: str) -> int:
        headers = {"Authorization": f"Bearer {token_}"}
        answer = await guarded.client.post("/api/builds/27/events", json={"type": "x"}, headers=headers)
        return int(answer.status_code)

    assert await post(token("build-27", "read")) == 403
    assert await post(token("build-27", "write")) == 201


async def test_the_list_of_all_runs_needs_a_token_for_all(guarded: Served) -> None:
    assert (await guarded.client.get("/v1/runs", params={"token": token()})).status_code == 403
    assert (await guarded.client.get("/v1/runs", params={"token": token("*")})).status_code == 200


@pytest.mark.req("S2-06", "S2-07", "S2-12")
async def test_socket_io_asks_for_the_token_of_each_build(guarded: Served) -> None:
    async with connected(guarded.url, auth={"token": token()}) as sio:
        assert (await sio.client.call("subscribe", {"buildId": "27"}))["ok"] is True
        assert (await sio.client.call("subscribe", {"buildId": "28"}))["code"] == "forbidden"
        ack = await sio.client.call("subscribe", {"buildId": "28", "token": token("build-28")})
        assert ack["ok"] is True
    async with connected(guarded.url) as sio:
        assert (await sio.client.call("subscribe", {"buildId": "27"}))["code"] == "forbidden"
        assert (await sio.client.call("subscribe", {"buildId": "27", "token": "x"}))["code"] == "forbidden"


async def test_pages_of_other_origins_may_not_change_anything() -> None:
    async with serving_memory(origins=("https://app.example",)) as served:
        for origin, status in [
            ("https://evil.example", 403), ("null", 403), ("https://app.example", 201), (served.url, 201),
        ]:  # fmt: skip
            answer = await served.client.post("/api/builds/1/events", json={"type": "x"}, headers={"Origin": origin})
            assert answer.status_code == status, origin
        assert (await served.client.get("/api/builds/1/status", headers={"Origin": "null"})).status_code == 200


async def test_a_foreign_name_for_this_machine_is_not_served() -> None:
    async with serving_memory(hosts=("localhost", "127.0.0.1", "[::1]")) as served:
        assert (await served.client.get("/health")).status_code == 200
        assert (await served.client.get("/health", headers={"Host": "localhost:1"})).status_code == 200
        assert (await served.client.get("/health", headers={"Host": "[::1]:80"})).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8000"):
            assert (await served.client.get("/health", headers={"Host": host})).status_code in (400, 421)


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00"


async def test_a_trace_context_travels_with_the_events_to_every_viewer(guarded: Served) -> None:
    headers = {"traceparent": TRACE, "Authorization": f"Bearer {token()}"}
    before = len(await guarded.store.read(StreamId("build", "27")))
    two = [{"type": "x"}, {"type": "y", "traceparent": OTHER_TRACE}]
    await guarded.client.post("/api/builds/27/events", json=two, headers=headers)
    for invalid in ("00-xyz", TRACE.upper(), TRACE + "-more", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"):
        await guarded.client.post(
            "/api/builds/27/events", json={"type": "z"}, headers=headers | {"traceparent": invalid}
        )
    log = (await guarded.store.read(StreamId("build", "27")))[before:]
    assert [event.traceparent for event in log] == [TRACE, OTHER_TRACE, None, None, None, None]
    assert [orjson.loads(wire.push_json(event)).get("traceparent") for event in log[:3]] == [TRACE, OTHER_TRACE, None]
    assert [event.traceparent for event in wire.from_bus(wire.bus_message(log[0].stream, log))[1][:2]] == [
        TRACE,
        OTHER_TRACE,
    ]


async def test_a_body_with_a_bad_trace_context_is_refused(guarded: Served) -> None:
    answer = await guarded.client.post(
        "/api/builds/27/events",
        json={"type": "x", "traceparent": "00-xyz"},
        headers={"Authorization": f"Bearer {token()}"},
    )
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/traceparent")
    assert all(event.type != "x" for event in await guarded.store.read(StreamId("build", "27")))


async def test_a_request_id_that_is_sent_comes_back_and_travels_with_the_events(guarded: Served) -> None:
    headers = {"X-Request-Id": "trace-7", "Authorization": f"Bearer {token()}"}
    answer = await guarded.client.post("/api/builds/27/events", json={"type": "x"}, headers=headers)
    assert answer.headers["x-request-id"] == "trace-7"
    log = await guarded.store.read(StreamId("build", "27"))
    assert log[-1].request_id == "trace-7"
    assert log[-1].traceparent is None
    odd = await guarded.client.get("/health", headers={"X-Request-Id": "a b\tc"})
    assert odd.headers["x-request-id"] != "a b\tc"
