"""Old events in today's shape: lifted step by step, or left exactly as they are; no page and no fold breaks on one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from eventstore import ALL, Category, Event, Fold, Position, StreamId
from eventstore.category import Labels, Upcast
from eventstore.event import Data
from eventstore.upcast import current

pytestmark = pytest.mark.pure


@dataclass(frozen=True)
class Parcel:
    grams: int = 0


def split_the_name(type_: str, data: Data) -> tuple[str, Data]:
    """1 -> 2: `weighed_in` became `weighed`."""
    return ("weighed" if type_ == "weighed_in" else type_), data


def kilograms_to_grams(type_: str, data: Data) -> tuple[str, Data]:
    """2 -> 3: the weight was in kilograms."""
    if type_ != "weighed":
        return type_, data
    return type_, {"grams": int(data["kilograms"] * 1000)} | {k: v for k, v in data.items() if k != "kilograms"}


def evolve(state: Parcel, event: Event) -> Parcel:
    grams = event.data.get("grams")
    return Parcel(state.grams + grams) if event.type == "weighed" and isinstance(grams, int) else state


def parcels(schema: int = 3, upcasts: dict[int, Upcast] | None = None) -> Category[Parcel]:
    return Category(
        name="parcel",
        version=1,
        state=Parcel,
        fold=Fold(Parcel(), evolve),
        aliases={},
        check=lambda type_, data: data,
        is_final=lambda state: False,
        labels=lambda state: Labels("moving"),
        view=lambda id_, at: {"grams": at.state.grams},
        schema=schema,
        upcasts={1: split_the_name, 2: kilograms_to_grams} if upcasts is None else upcasts,
    )


PARCEL = parcels()


def event(type_: str, data: Any, schema: int, version: int = 1) -> Event:
    at = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    json = data if isinstance(data, bytes) else orjson.dumps(data)
    made = Event(StreamId("parcel", "1"), version, Position(70, 7), type_, json, at, "request-1")
    return replace(made, schema=schema)


def test_an_event_of_today_is_the_very_same_object() -> None:
    today = event("weighed", b'{ "grams" : 5.0 }', 3)
    assert current(PARCEL, today) is today


@pytest.mark.parametrize("schema", [1, 2])
def test_an_old_event_is_lifted_through_every_shape_since(schema: int) -> None:
    old = event("weighed_in" if schema == 1 else "weighed", {"kilograms": 1.5, "by": "Ann"}, schema)
    lifted = current(PARCEL, old)
    assert (lifted.type, lifted.data, lifted.schema) == ("weighed", {"grams": 1500, "by": "Ann"}, 3)
    assert lifted == replace(old, type="weighed", json=lifted.json, schema=3), "its place, time and cause stay"


def test_what_is_recorded_does_not_change() -> None:
    old = event("weighed_in", {"kilograms": 2}, 1)
    before = old.json
    current(PARCEL, old)
    assert (old.type, old.json, old.schema) == ("weighed_in", before, 1)


def test_a_log_of_every_age_folds_as_one() -> None:
    log = [
        event("weighed_in", {"kilograms": 1}, 1, 1),
        event("weighed", {"kilograms": 2}, 2, 2),
        event("noted", {"text": "hm"}, 1, 3),
        event("weighed", {"grams": 3}, 3, 4),
    ]
    assert PARCEL.fold(current(PARCEL, one) for one in log).state == Parcel(3003)


def test_an_event_from_the_future_passes_unchanged() -> None:
    """In a rolling deploy the new processes write already while the old ones still read."""
    future = event("weighed", {"ounces": 5}, 4)
    assert current(PARCEL, future) is future
    assert PARCEL.fold([future]).state == Parcel(0)


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        ("weighed_in", {"pounds": 5}),
        ("weighed_in", {"kilograms": "many"}),
        ("weighed_in", b"[1]"),
        ("weighed_in", b'{"kilograms": 1e400}'),
    ],
)
def test_an_event_that_cannot_be_lifted_stays_as_it_was_recorded(type_: str, data: Any) -> None:
    odd = event(type_, data, 1)
    assert current(PARCEL, odd) is odd, "all of it: not half lifted, and with its old number"


def test_an_upcast_that_makes_what_is_not_json_leaves_the_event() -> None:
    broken = parcels(schema=2, upcasts={1: lambda type_, data: (type_, {"x": object()})})
    old = event("weighed", {}, 1)
    assert current(broken, old) is old


@pytest.mark.parametrize(("schema", "numbers"), [(3, [1]), (3, [2]), (2, []), (1, [1]), (2, [1, 2])])
def test_a_category_without_a_whole_chain_cannot_be_made(schema: int, numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="each schema below"):
        parcels(schema, dict.fromkeys(numbers, split_the_name))


@pytest.mark.parametrize("category", ALL, ids=lambda category: category.name)
def test_the_shipped_categories_take_events_of_today(category: Category[Any]) -> None:
    today = replace(event("custom", {}, category.schema), stream=StreamId(category.name, "1"))
    assert current(category, today) is today
