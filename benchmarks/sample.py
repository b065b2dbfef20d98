"""sample: events of about 220 bytes, made beforehand so that making them is not measured."""

from __future__ import annotations

import json
import random
from typing import Any

from eventstore.event import NewEvent, StreamId

COUNT = 4000
STREAMS = [StreamId("build", f"{number:05d}") for number in range(1000)]
TYPES = ("task_started", "task_completed", "build_progress", "run_output")

_chance = random.Random(27)


def _data(number: int) -> dict[str, Any]:
    return {
        "taskName": f"Create component {number}",
        "message": "Writing src/components/TodoList.tsx and its tests",
        "line": number % 700,
        "progress": (number % 1000) / 10,
        "attempt": 1,
        "path": "src/components/TodoList.tsx",
        "traceId": f"{_chance.getrandbits(128):032x}",
    }


DATA = [_data(number) for number in range(COUNT)]
EVENTS = [NewEvent(TYPES[number % len(TYPES)], data) for number, data in enumerate(DATA)]
JSON = [json.dumps(data, separators=(",", ":")) for data in DATA]
"""The same data as text, for those who are measured without an encoder of their own."""
