"""What may enter the log, and what is refused, with the place and the reason, before anything is sent anywhere."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import NewEvent, StreamId
from eventstore.admit import MAX_APPEND, MAX_DATA_BYTES, Draft, admit
from eventstore.errors import Invalid
from tests.eventstore.logs import BUILD_27

pytestmark = pytest.mark.pure

AT = datetime(2025, 7, 22, 7, 15, 20, 107000, UTC)


def one(event: NewEvent, **limits: int) -> Draft:
    [draft] = admit(BUILD_27, [event], **limits)
    return draft


def refusal(*events: NewEvent, stream: StreamId = BUILD_27) -> Invalid:
    with pytest.raises(Invalid) as refused:
        admit(stream, events)
    assert refused.value.status == 422
    return refused.value


@pytest.mark.req("S1-70")
def test_unknown_types_and_fields_pass_unchanged() -> None:
    draft = one(NewEvent("weather_changed", {"b": 1, "a": [None, True, "ä", 1.5]}))
    assert draft.type == "weather_changed"
    assert draft.json == '{"b":1,"a":[null,true,"ä",1.5]}'.encode()


@pytest.mark.req("S2-15")
@pytest.mark.parametrize(
    ("alias", "type_"),
    [("plan", "plan_generated"), ("task_start", "task_started"), ("task_complete", "task_completed")],
)
def test_the_diagrams_names_are_stored_under_the_canonical_ones(alias: str, type_: str) -> None:
    assert one(NewEvent(alias)).type == type_


@pytest.mark.req("S2-15", "S0-21")
def test_complete_is_deploy_completed_and_needs_a_preview_as_well() -> None:
    assert one(NewEvent("complete", {"previewUrl": "https://x.dev"})).type == "deploy_completed"
    assert refusal(NewEvent("complete")).pointer == "/data/previewUrl"


@pytest.mark.parametrize("type_", ["", "1st", "a b", "a" * 51, "a\nid: 9", "a\r", "a\x00", "ä", "_x"])
def test_a_type_is_a_word_that_cannot_forge_a_frame(type_: str) -> None:
    assert refusal(NewEvent(type_)).pointer == "/type"


@pytest.mark.req("S1-06")
def test_a_type_may_have_fifty_characters() -> None:
    assert one(NewEvent("t" * 50)).type == "t" * 50


@pytest.mark.parametrize("data", [None, [], "text", 1, [("a", 1)]])
def test_data_is_a_json_object(data: Any) -> None:
    assert refusal(NewEvent("custom", data)).pointer == "/data"


@pytest.mark.parametrize("key", ["", "a" * 201, "with space", "tab\t", "ä", "nul\x00", 5])
def test_a_key_is_visible_ascii(key: Any) -> None:
    assert refusal(NewEvent("custom", {}, key=key)).pointer == "/key"


@pytest.mark.parametrize("request_id", ["", "a" * 201, "line\nbreak", 5])
def test_a_request_id_is_visible_ascii(request_id: Any) -> None:
    assert refusal(NewEvent("custom", {}, request_id=request_id)).pointer == "/requestId"


def test_a_key_stands_once_in_an_append() -> None:
    assert refusal(NewEvent("a", {}, key="k"), NewEvent("b", {}, key="k")).pointer == "/1/key"


def test_the_pointer_names_the_event_of_a_list() -> None:
    assert refusal(NewEvent("a"), NewEvent("status", {"progress": 101})).pointer == "/1/data/progress"


def test_times_are_kept_in_utc_to_the_microsecond() -> None:
    local = datetime(2025, 7, 22, 9, 15, 20, 107001, timezone(timedelta(hours=2)))
    kept = one(NewEvent("custom", {}, at=local)).at
    assert kept == local
    assert kept is not None
    assert kept.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "at", [AT.replace(tzinfo=None), datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))], ids=["naive", "year 0"]
)
def test_a_time_without_a_zone_or_a_year_is_refused(at: datetime) -> None:
    assert refusal(NewEvent("custom", {}, at=at)).pointer == "/timestamp"


def test_an_append_has_at_least_one_event_and_at_most_a_thousand() -> None:
    assert "at least one" in refusal().detail
    assert len(admit(BUILD_27, [NewEvent("custom")] * MAX_APPEND)) == MAX_APPEND
    assert "the most is 1000" in refusal(*[NewEvent("custom")] * (MAX_APPEND + 1)).detail


def test_a_category_that_is_unknown_is_refused() -> None:
    assert refusal(NewEvent("custom"), stream=StreamId("nothing", "1")).pointer == "/category"


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ("a\x00b", "/data/deep/1"),
        (math.nan, "/data/deep/1"),
        (math.inf, "/data/deep/1"),
        (-math.inf, "/data/deep/1"),
        ({"\x00": 1}, "/data/deep/1"),
        ("\ud800", "/data"),
        (2**64, "/data"),
        (object(), "/data"),
        ({1: 2}, "/data"),
    ],
    ids=[
        "NUL",
        "NaN",
        "infinity",
        "-infinity",
        "NUL in a name",
        "lone surrogate",
        "2^64",
        "object",
        "number as a name",
    ],
)
def test_what_postgres_or_a_browser_cannot_hold_is_refused(value: Any, pointer: str) -> None:
    assert refusal(NewEvent("custom", {"deep": [0, value]})).pointer == pointer


def test_honest_backslashes_and_nulls_pass() -> None:
    data = {"text": "\\u0000 is how NUL is written, and null is a word", "nothing": None}
    assert orjson.loads(one(NewEvent("custom", data)).json) == data


def test_absurd_depth_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"a": deep}
    assert refusal(NewEvent("custom", deep)).pointer == "/data"


def test_too_much_data_is_refused_with_both_sizes() -> None:
    error = refusal(NewEvent("custom", {"text": "x" * MAX_DATA_BYTES}))
    assert error.pointer == "/data"
    assert "65,547 bytes; the most is 65,536" in error.detail
    assert one(NewEvent("custom", {"text": "x" * (MAX_DATA_BYTES - 11)})).json


def test_the_limit_counts_bytes_and_can_be_set() -> None:
    assert one(NewEvent("custom", {"t": "ää"}), max_data_bytes=12)
    with pytest.raises(Invalid):
        one(NewEvent("custom", {"t": "äää"}), max_data_bytes=12)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(data=st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_whatever_is_admitted_reads_back_as_it_was(data: dict[str, Any]) -> None:
    try:
        draft = one(NewEvent("custom", data))
    except Invalid:
        return
    assert orjson.loads(draft.json) == data
    assert b"\\u0000" not in draft.json.replace(b"\\\\", b"")
