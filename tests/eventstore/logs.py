"""Material for the tests of the log: build 27 of the source documents, and events without a store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from eventstore import START, Event, NewEvent, StreamId
from eventstore.admit import admit

F27 = json.loads((Path(__file__).parent.parent / "fixtures" / "f27.json").read_text())
BUILD_27 = StreamId("build", "27")
BEGIN = datetime(2025, 7, 22, 7, 13, 50, tzinfo=UTC)


def f27() -> list[NewEvent]:
    """The twelve events of build 27, with their times."""
    return [NewEvent(e["type"], e["data"], at=datetime.fromisoformat(e["timestamp"])) for e in F27["events"]]


def recorded(events: Iterable[NewEvent], *, after: int = 0, stream: StreamId = BUILD_27) -> list[Event]:
    """``events`` as a store would have recorded them, a second apart unless they say when."""
    drafts = [draft for event in events for draft in admit(stream, [event])]
    return [
        Event(stream, version, START, d.type, d.json, d.at or BEGIN + timedelta(seconds=version), d.request_id)
        for version, d in enumerate(drafts, after + 1)
    ]
