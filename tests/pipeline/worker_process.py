"""A worker as a process of its own, for tests that kill it: `worker_process.py DSN DATA_DIR NAME SETTINGS`.

SETTINGS is JSON for PipelineSettings. While DATA_DIR holds a file `hold-KIND`, work of that kind does not end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from eventstore.stores.postgres import PostgresStore
from pipeline.builders.static import static_builder
from pipeline.deployer import Deployment
from pipeline.deployers.local import LocalDeployer
from pipeline.planner import Brief, Outcome, Plan, PlannedTask, Report
from pipeline.planners.template import TemplatePlanner
from pipeline.settings import PipelineSettings
from pipeline.worker import Worker
from pipeline.workspace import Workspace


class Holding:
    """The real planner, builder and deployer, each behind a door."""

    def __init__(self, settings: PipelineSettings) -> None:
        self._folder = settings.data_dir
        self._planner = TemplatePlanner()
        self._builder = static_builder()
        self._deployer = LocalDeployer(settings.data_dir, settings.public_url)

    async def _door(self, kind: str) -> None:
        while (self._folder / f"hold-{kind}").exists():
            await asyncio.sleep(0.02)

    async def plan(self, brief: Brief, report: Report) -> Plan:
        await self._door("plan")
        return await self._planner.plan(brief, report)

    async def carry_out(self, task: PlannedTask, brief: Brief, workspace: Workspace, report: Report) -> Outcome:
        await self._door("task")
        return await self._planner.carry_out(task, brief, workspace, report)

    async def build(self, workspace: Workspace, report: Report) -> Path:
        await self._door("build")
        return await self._builder(workspace, report)

    async def deploy(self, build: str, files: Path, report: Report) -> Deployment:
        await self._door("deploy")
        return await self._deployer(build, files, report)


async def main(dsn: str, folder: str, name: str, options: str) -> None:
    settings = PipelineSettings(data_dir=Path(folder), public_url="http://preview.test:8000", **json.loads(options))
    parts = Holding(settings)
    async with PostgresStore(dsn) as store:
        worker = Worker(
            store=store,
            dsn=dsn,
            planner=parts,
            builder=parts.build,
            deployer=parts.deploy,
            settings=settings,
            name=name,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
