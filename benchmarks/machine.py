"""machine: CPU and memory of processes, and how busy the machine is, read from /proc."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PARENT, USER, SYSTEM, ENDED_USER, ENDED_SYSTEM = 1, 11, 12, 13, 14
"""Fields of /proc/PID/stat, counted from the one behind the name."""


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold spaces itself."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def parent(pid: int) -> int:
    """Who started it."""
    return int(stat(pid)[PARENT])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children, those included that have ended."""
    own = stat(pid)
    ticks = sum(int(own[field]) for field in (USER, SYSTEM, ENDED_USER, ENDED_SYSTEM))
    for child in PROC.glob("[0-9]*"):
        try:
            fields = stat(int(child.name))
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[PARENT]) == pid:
            ticks += int(fields[USER]) + int(fields[SYSTEM])
    return ticks / TICK


def resident_bytes(pid: int) -> int:
    """RSS of one process of ours. Counted page by page: what /proc/PID/stat says may be off by hundreds of KiB."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


def busy_percent(seconds: float) -> float:
    """How busy all cores together are while we sleep: what others do."""
    before = _ticks()
    time.sleep(seconds)
    total, idle = (new - old for new, old in zip(_ticks(), before, strict=True))
    return 100 * (1 - idle / max(1, total))


def _ticks() -> tuple[int, int]:
    with open(PROC / "stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def file_system(folder: Path) -> str:
    """The type of file system that ``folder`` is on, such as ext4."""
    mounts = [line.split()[1:3] for line in (PROC / "self" / "mounts").read_text().splitlines()]
    inside = [(len(at), type_) for at, type_ in mounts if folder.resolve().is_relative_to(at)]
    return max(inside)[1] if inside else "unknown"


def describe() -> dict[str, str]:
    """What the figures were measured on."""
    models = [line for line in (PROC / "cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE
    return {
        "cpu": f"{os.cpu_count()} x {models[0].partition(':')[2].strip() if models else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
