"""Any program tells of its progress: one POST an event, with nothing but the standard library.

    python examples/producer.py my-import        then open http://127.0.0.1:8000/ui/runs/my-import

The key makes each request safe to repeat: the same key is recorded once.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request

URL = os.environ.get("FOLDSTREAM_URL", "http://127.0.0.1:8000")


def tell(build: str, type_: str, **data: object) -> int:
    """Append one event and return its id."""
    key = f"{type_}:{data.get('taskName', '')}".replace(" ", "-")
    body = json.dumps({"type": type_, "data": data, "key": key}).encode()
    request = urllib.request.Request(f"{URL}/api/builds/{build}/events", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return int(json.load(answer)["id"])


def main(build: str, pause: float) -> None:
    steps = ["Read the files", "Clean the rows", "Write the report"]
    plan = [{"id": str(number), "name": name} for number, name in enumerate(steps)]
    tell(build, "plan_generated", plan={"id": "import", "tasks": plan})
    for name in steps:
        tell(build, "task_started", taskName=name)
        time.sleep(pause)  # the work
        tell(build, "task_completed", taskName=name)
    last = tell(build, "run_completed", message="All rows imported")
    print(f"{last} events: {URL}/ui/runs/{build}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
