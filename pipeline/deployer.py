"""Deployer: puts a folder where browsers can open it. Implementations in `deployers/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.planner import Report


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where it went: the address to open, and the name by which the place knows it."""

    url: str
    id: str


Deployer = Callable[[str, Path, Report], Awaitable[Deployment]]
"""(build, folder, report): publish the folder. Publishing the same folder again must be harmless: jobs run again."""
