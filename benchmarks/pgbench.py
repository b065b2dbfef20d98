"""pgbench: single-row INSERTs by PostgreSQL's own load program, which comes with the same wheel as the server."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import sample
from benchmarks.case import Absent, Figure
from benchmarks.place import Place, Watch, figures
from foldstream.services.process import account, environment
from foldstream.services.programs import HERE, POSTGRES, find

SCRIPT = """\\set stream random(0, 999)
INSERT INTO project_build_events (build_id, event_type, event_data)
VALUES ('build-' || :stream, 'task_started', '{data}') RETURNING id;
"""


def inserts(place: Place, seconds: float, clients: int) -> Iterator[Figure]:
    """``clients`` connections, each waiting for its commit; prepared statements."""
    program = find(POSTGRES, account(None), HERE).path.with_name("pgbench")
    if not program.exists():
        raise Absent(f"there is no {program}")
    with tempfile.TemporaryDirectory(prefix="foldstream-bench-") as folder, place.old_table() as url:
        script = Path(folder) / "insert.sql"
        script.write_text(SCRIPT.format(data=sample.JSON[17]))
        # One latency in ten is written down, so that writing costs the clients next to nothing.
        share = 1.0 if clients == 1 else 0.1
        with Watch(place) as watch:
            told = subprocess.run(
                [
                    *(program, "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(2, clients))),
                    *(("-T", str(round(seconds))) if seconds >= 1 else ("-t", "100")),
                    *("-f", script, "-l", f"--sampling-rate={share}", url),
                ],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=seconds + 60,
                check=False,
            )
        if told.returncode != 0:
            raise RuntimeError(f"pgbench: {told.stderr[-2000:]}")
        latencies = [
            int(line.split()[2]) / 1e6
            for log in Path(folder).glob("pgbench_log.*")
            for line in log.read_text().splitlines()
        ]
    watch.seconds = _number(told.stdout, r"processed: (\d+)") / _number(told.stdout, r"tps = ([\d.]+)")
    events = int(_number(told.stdout, r"processed: (\d+)"))
    name = f"pgbench, {clients} client{'s' if clients > 1 else ''}"
    yield from figures(name, watch, events, latencies, ours=False)


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"pgbench said nothing like {pattern}:\n{text}")
    return float(found[1])
