"""pipeline: what produces facts. A build is a line of jobs, and what comes next is a function of the log.

    POST /build-preview -> build_queued, and the job "plan" in the same transaction
    a job               -> read the log, fold, do the step, append what happened, enqueue next_jobs(state)
    a crash             -> the same again: nothing is known that is not in the log

The rooms: `flow` `planner` are pure. `steps` does one job, `queue` and `worker` bring it to whoever is alive,
`planners/` `builders/` `deployers/` do the work itself. This package imports eventstore and never streaming.
"""

from pipeline.builder import Builder
from pipeline.deployer import Deployer, Deployment
from pipeline.flow import Job, next_jobs
from pipeline.pipeline import Pipeline
from pipeline.planner import Brief, Outcome, Plan, PlannedTask, Planner, Report
from pipeline.queue import install
from pipeline.settings import PipelineSettings
from pipeline.worker import Worker

__all__ = [
    "Brief",
    "Builder",
    "Deployer",
    "Deployment",
    "Job",
    "Outcome",
    "Pipeline",
    "PipelineSettings",
    "Plan",
    "PlannedTask",
    "Planner",
    "Report",
    "Worker",
    "install",
    "next_jobs",
]
