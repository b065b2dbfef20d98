"""Upcast: an event recorded years ago, in the shape of today.

Pure. Stored bytes never change; old shapes are lifted one schema number at a time when they are read. So a fold knows
one shape, an upcast knows two that are neighbours, and no migration ever rewrites the log.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import orjson

from eventstore.categories import BY_NAME
from eventstore.category import Category
from eventstore.event import Data, Event, StreamId

S = TypeVar("S")


def lifted(events: list[Event]) -> list[Event]:
    """Each of them `current`; the very same list when all of them are, as is usual."""
    if not any(is_old(event.stream, event.schema) for event in events):
        return events
    return [current(BY_NAME[e.stream.category], e) if is_old(e.stream, e.schema) else e for e in events]


def is_old(stream: StreamId, schema: int | None) -> bool:
    """An event of this schema number, in this stream, has the shape of former days."""
    category = BY_NAME.get(stream.category)
    return category is not None and schema is not None and schema < category.schema


def current(category: Category[S], event: Event) -> Event:
    """``event`` in the schema of ``category``: the very same object if it is in it already. Never raises.

    A lifted event keeps its place, its time and what caused it; only type, data and schema number are new.

    What cannot be lifted comes back as it was recorded, all of it, with its old schema number:
    an event of a newer schema than this program knows (a rolling deploy: the newer processes write already), and an
    event at which an upcast fails (append_event() in SQL knows no vocabulary). Raising instead would make one odd event
    the end of its whole stream: no page, no replay and no fold would come past it. Every fold takes odd data as it
    takes data of an unknown producer. That it happened is not hidden: the schema number of such an event is not
    ``category.schema``, which is what `foldstream verify` and whoever counts can ask for.
    """
    if event.schema >= category.schema:
        return event
    type_: str = event.type
    try:
        data: Data = event.data
        for number in range(event.schema, category.schema):
            type_, data = category.upcasts[number](type_, data)
        json = orjson.dumps(data if isinstance(data, dict) else dict(data))
    except Exception:  # noqa: BLE001 - boundary: one old event, and any upcast; see above
        return event
    return msgspec.structs.replace(event, type=type_, json=json, schema=category.schema)
