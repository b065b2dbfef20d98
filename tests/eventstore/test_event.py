"""Names of streams, positions, and events that keep the bytes they were recorded with."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from eventstore import START, NewEvent, Position, StreamId
from eventstore.errors import Invalid
from eventstore.text import iso_millis
from tests.eventstore.logs import BUILD_27, recorded

pytestmark = pytest.mark.pure


def test_a_stream_is_written_category_dash_id() -> None:
    assert str(StreamId("build", "27")) == "build-27"
    assert StreamId.parse("build-27") == StreamId("build", "27")


def test_the_id_may_hold_dashes() -> None:
    assert StreamId.parse("build-a-b-c") == StreamId("build", "a-b-c")


@pytest.mark.req("S1-06", "S3-10")
@pytest.mark.parametrize(
    "id_", ["27", "a" * 128, "01J9ZZZZZZZZZZZZZZZZZZZZZZ", "6f1c0e1e-7a8e-4a5c-9a53-6b3f8b6f8c11", "a.b_c:d-e"]
)
def test_an_id_is_opaque_text(id_: str) -> None:
    assert StreamId.parse(f"build-{id_}").id == id_


@pytest.mark.parametrize("id_", ["", ".", "..", "a" * 129, "a b", "a/b", "a\n", "ä", "a\x00", "..%2f"])
def test_an_id_with_other_characters_is_refused(id_: str) -> None:
    with pytest.raises(Invalid) as refused:
        StreamId("build", id_)
    assert refused.value.pointer == "/id"


@pytest.mark.parametrize("category", ["", "Build", "1build", "a" * 33, "a-b", "build\n"])
def test_a_category_is_a_short_lower_case_word(category: str) -> None:
    with pytest.raises(Invalid) as refused:
        StreamId(category, "27")
    assert refused.value.pointer == "/category"


def test_a_name_without_a_dash_is_refused() -> None:
    with pytest.raises(Invalid, match="not a stream name"):
        StreamId.parse("build27")


def test_positions_are_ordered_by_transaction_first() -> None:
    assert START < Position(1, 9) < Position(2, 3) < Position(2, 4)


def test_an_event_decodes_its_bytes_anew_each_time() -> None:
    [event] = recorded([NewEvent("custom", {"a": {"b": [1, 2]}})])
    event.data["a"]["b"].append(3)
    assert event.data == {"a": {"b": [1, 2]}}


def test_events_do_not_change() -> None:
    [event] = recorded([NewEvent("custom")], stream=BUILD_27)
    with pytest.raises(AttributeError, match="immutable"):
        event.version = 2  # type: ignore[misc]


@pytest.mark.req("S0-05")
def test_times_are_written_in_utc_with_milliseconds_that_never_lie_ahead() -> None:
    local = datetime(2025, 7, 22, 9, 15, 20, 107999, timezone(timedelta(hours=2)))
    assert iso_millis(local) == "2025-07-22T07:15:20.107Z"
    assert iso_millis(None) is None
