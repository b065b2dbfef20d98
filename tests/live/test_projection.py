"""The whole service keeps the lists: what is posted is found by its status, and the metrics say who follows."""

from __future__ import annotations

import httpx2
import pytest

from tests.processes import Foldstream
from tests.projection import until

pytestmark = pytest.mark.live


async def test_what_is_posted_is_found_by_its_project_and_its_status(service: Foldstream) -> None:
    async with httpx2.AsyncClient(base_url=service.url) as client:
        events = [
            {"type": "build_queued", "data": {"prompt": "x", "projectId": "projected"}},
            {"type": "build_failed", "data": {"error": "no"}},
        ]
        for event in events:
            assert (await client.post("/api/builds/projected-1/events", json=event)).status_code == 201

        async def listed() -> list[str]:
            answer = await client.get("/v1/runs", params={"project": "projected", "status": "failed"})
            assert answer.status_code == 200, answer.text
            return [run["id"] for run in answer.json()["runs"]]

        assert await until(listed) == ["build-projected-1"]
        metrics = (await client.get("/metrics")).text
        assert 'foldstream_follower_active{follower="projector"} 1.0' in metrics
        assert 'foldstream_follower_lag_seconds{follower="projector"}' in metrics
