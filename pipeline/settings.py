"""What can be set in the pipeline. Values come in from outside (`foldstream.settings` reads the environment)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Times are in seconds.

    data_dir        workspaces and previews; shared by all workers that may work on the same build.
    public_url      where browsers reach this server, such as http://127.0.0.1:8000
    concurrency     jobs that one worker does at the same time.
    build_timeout   the longest that planning, one task or building may take; deploy_timeout: that deploying may take.
    max_attempts    how often a step is begun, at most, when its workers die under it.
    soft_attempts   how often a step is begun, at most, when it fails with an error that says: try again.
    soft_pause      the pause before the second try; each further one is twice as long.
    heartbeat       how often a worker says that it lives; stalled_after: silence after which its jobs are taken back.
    sweep_every     how often a worker looks for jobs to take back and for builds that no job works on.
    poll_every      how often it looks for jobs without being told of one.
    stop_grace      what running jobs get to finish when the worker is asked to stop; then they are put back.
    """

    data_dir: Path
    public_url: str
    concurrency: int = 4
    build_timeout: float = 300.0
    deploy_timeout: float = 120.0
    max_attempts: int = 10
    soft_attempts: int = 3
    soft_pause: float = 0.25
    heartbeat: float = 1.0
    stalled_after: float = 5.0
    sweep_every: float = 2.0
    poll_every: float = 1.0
    stop_grace: float = 0.2
