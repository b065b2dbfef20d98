"""The command line against the whole service: Postgres, Valkey, server and worker."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.commandline import done, environment, foldstream, program, start
from tests.processes import Foldstream

pytestmark = pytest.mark.live


async def test_a_wrapped_command_becomes_a_page(service: Foldstream) -> None:
    command = ["sh", "-c", "echo [ 50%] half; echo trouble >&2; exit 4"]
    watching = await start(program("watch", "cli-wrapped", "--json"), environment(service.url))
    ended = await foldstream("run", "--id", "cli-wrapped", "--name", "a job", "--", *command, url=service.url)
    assert (ended.code, ended.out, ended.err) == (4, b"[ 50%] half\n", b"trouble\n")
    watched = await done(watching)
    assert watched.code == 1
    events = [json.loads(line) for line in watched.lines]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run_started"
    assert (events[-1]["type"], events[-1]["data"]["exitCode"]) == ("run_failed", 4)
    state = json.loads((await foldstream("status", "cli-wrapped", "--json", url=service.url)).out)
    assert (state["name"], state["status"], state["progress"]) == ("a job", "failed", 50)
    assert "trouble" in state["error"]


@pytest.mark.req("S2-02")
async def test_a_build_is_watched_to_its_preview(service: Foldstream) -> None:
    async with httpx2.AsyncClient(base_url=service.url) as client:
        answer = await client.post("/build-preview", json={"prompt": "Create a todo app with dark mode"})
    watched = await foldstream("watch", answer.json()["buildId"], url=service.url)
    assert watched.code == 0
    transcript = ["✓ Analyzing requirements...", "✓ Creating project structure...", "✓ Building application..."]
    assert [line for line in watched.lines if line in transcript][:3] == transcript
    assert any(line.startswith("⚡ ") for line in watched.lines)
    assert watched.lines[-1].startswith(f"🎉 Your app is ready! [View Preview] {service.url}/preview/")


async def test_emitted_events_move_the_state_and_the_list(service: Foldstream) -> None:
    lines = [
        {"type": "plan_generated", "data": {"plan": {"tasks": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]}}},
        {"type": "task_started", "data": {"taskId": "a"}},
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    assert (await foldstream("emit", "cli-emitted", "-", url=service.url, stdin=text)).lines == ["1", "2"]
    status = await foldstream("status", "cli-emitted", url=service.url)
    assert status.lines[:3] == ["build-cli-emitted  executing  25 %  cli-emitted", "  ⏳ A", "  □ B"]
    listed = await foldstream("ls", url=service.url)
    assert any(line.startswith("build-cli-emitted ") for line in listed.lines)
