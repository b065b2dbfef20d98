"""`foldstream ls` with its filters."""

from __future__ import annotations

import json

import pytest

from eventstore import NewEvent, StreamId
from eventstore.stores.memory import MemoryStore
from tests.commandline import foldstream
from tests.projection import projecting, snapshots_of, until_projected
from tests.serving import Announcer, serving


@pytest.mark.parametrize("word", ["project", "status"])
async def test_ls_lists_what_it_is_asked_for(word: str) -> None:
    announcer = Announcer()
    store = MemoryStore(announce=announcer)
    snapshots = snapshots_of(store)
    async with serving(store, announcer, snapshots=snapshots) as served, projecting(store, snapshots):
        for id_, project, type_ in (("1", "shop", "plan_started"), ("2", "site", "build_failed")):
            await store.append(StreamId("build", id_), [NewEvent("build_queued", {"projectId": project})])
            await store.append(StreamId("build", id_), [NewEvent(type_, {"error": "x"})])
            await until_projected(snapshots, StreamId("build", id_), 2)
        ended = await foldstream("ls", f"--{word}", {"project": "site", "status": "failed"}[word], url=served.url)
        assert [line.split("  ")[0] for line in ended.lines] == ["build-2"]
        wrong = await foldstream("ls", "--status", "hungry", "--category", "task", url=served.url)
        assert (wrong.code, wrong.talk[0]) == (1, "foldstream ls: a task is never 'hungry' (at /status)")
        empty = await foldstream("ls", "--since", "2999-01-01", "--json", url=served.url)
        assert json.loads(empty.out) == []
