"""States as stored JSON: what comes back equals what went in, whatever jsonb does to its text; rubbish is refused.

The last test pins what the folds make of known logs, so that nobody changes a fold and forgets to raise its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore import ALL, BY_NAME, START, At, Category, Event, StreamId
from eventstore.categories import build_vocabulary, task_vocabulary
from eventstore.frozen import freeze, thaw
from tests.eventstore.logs import BEGIN, F27, f27, recorded
from tests.eventstore.test_task_fold import FT, ft

pytestmark = pytest.mark.pure

TYPES = {"build": sorted(build_vocabulary.TYPES), "task": sorted(task_vocabulary.TYPES)}


def as_jsonb(data: bytes) -> bytes:
    """What Postgres gives back: short names first, numbers written out, every text as plain characters."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
            return "{" + ", ".join(f"{written(name)}: {written(value[name])}" for name in names) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(written, value)) + "]"
        return format(value, "f") if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)

    return written(json.loads(data, parse_float=Decimal)).encode()


def back(category: Category[Any], at: At[Any]) -> At[Any]:
    return At(thaw(category, as_jsonb(freeze(category, at))), at.version)


def log(category: str, told: list[tuple[str, Any]]) -> list[Event]:
    """Events as some other program might have written them, at odd times."""
    return [
        Event(
            StreamId(category, "1"), n, START, type_, orjson.dumps(data), BEGIN + timedelta(seconds=n, microseconds=n)
        )
        for n, (type_, data) in enumerate(told, 1)
    ]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(["a", "b", "https://x.dev"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "id", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
TASKS = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from("abc"), "name": TEXT}, optional={"estimatedDuration": ANY_JSON}),
    max_size=3,
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("progress", "taskCount", "error", "message", "previewUrl", "result", "worker"), ANY_JSON),
        "buildLogUrl": st.just("https://x.dev/log"),
        "project": TEXT,
        "steps": st.lists(TEXT, max_size=3),
        "icon": TEXT,
        "taskId": st.sampled_from("abc"),
        "taskName": st.sampled_from("abc"),
        "plan": st.fixed_dictionaries({"tasks": TASKS}),
        "severity": st.sampled_from(["soft", "fatal"]),
        "details": st.fixed_dictionaries({"filesCreated": st.lists(TEXT, max_size=2)}),
    },
)


@pytest.mark.req("K-09")
@pytest.mark.parametrize("category", ALL, ids=lambda category: category.name)
@given(data=st.data())
def test_folding_on_from_a_stored_state_is_folding_from_nothing(category: Category[Any], data: st.DataObject) -> None:
    told = data.draw(st.lists(st.tuples(st.sampled_from(TYPES[category.name]), DATA), max_size=8))
    cut = data.draw(st.integers(0, len(told)))
    events = log(category.name, told)
    kept = category.fold(events[:cut])
    assert back(category, kept) == kept
    assert category.fold(events[cut:], since=back(category, kept)) == category.fold(events)


@pytest.mark.parametrize(("name", "events"), [("build", recorded(f27())), ("task", ft())], ids=["f27", "ft"])
def test_the_documents_runs_come_back_at_every_version(name: str, events: list[Event]) -> None:
    category = BY_NAME[name]
    for cut in range(len(events) + 1):
        at = category.fold(events[:cut])
        assert back(category, at) == at
        assert category.view("1", back(category, at)) == category.view("1", at)


@pytest.mark.parametrize(
    "number",
    [
        4.114603800225527e16,
        -4.114603800225527e16,
        1.5e-7,
        1e16,
        1e22,
        1e23,
        1e300,
        5e-324,
        0.1,
        -0.0,
        1.0,
        2**63,
        2**64 - 1,
        -(2**63),
        123456789.123456789,
    ],
)
def test_numbers_keep_their_value_whatever_their_text(number: float) -> None:
    at = BY_NAME["build"].fold(log("build", [("build_queued", {"n": number})]))
    thawed = back(BY_NAME["build"], at)
    assert thawed.state.request == {"n": number}
    assert type(thawed.state.request["n"]) is type(number)
    assert back(BY_NAME["build"], thawed) == thawed, "and it can be stored again"


def test_what_only_looks_like_a_number_stays() -> None:
    texts = {"1e5": "1e5", "a": '"1e5', "b": "\\", "c": '\\"2e7,3e8', "d": 1e77}
    at = BY_NAME["build"].fold(log("build", [("build_queued", texts)]))
    assert back(BY_NAME["build"], at) == at
    assert orjson.loads(freeze(BY_NAME["build"], at))["request"] == texts


def test_deep_data_is_stored_and_what_is_too_deep_is_refused_clearly() -> None:
    def queued(depth: int) -> At[Any]:
        json_ = b'{"a":' * depth + b"1" + b"}" * depth
        return BY_NAME["build"].fold([replace(log("build", [("build_queued", {})])[0], json=json_)])

    assert back(BY_NAME["build"], queued(300)) == queued(300)
    with pytest.raises(ValueError, match="nested too deeply"):
        freeze(BY_NAME["build"], queued(1020))


@pytest.mark.parametrize("category", ALL, ids=lambda category: category.name)
def test_what_is_no_such_state_is_refused(category: Category[Any]) -> None:
    good = orjson.loads(freeze(category, At(category.fold.initial, 0)))
    assert thaw(category, orjson.dumps(good)) == category.fold.initial
    missing = {name: value for name, value in good.items() if name != "events"}
    rubbish: list[bytes | str] = [
        *(b"", b"null", b"[]", b"{}", b"5", b"{", b"\xff", "{", b"[" * 5000),
        *map(orjson.dumps, [missing, {**good, "more": 1}, {**good, "events": "5"}, {**good, "status": None}]),
        orjson.dumps({**good, "updated_at": "yesterday"}),
    ]
    for data in rubbish:
        with pytest.raises(ValueError, match=f"this is not a stored state of {category.name}"):
            thaw(category, data)


def test_a_state_of_another_category_is_refused() -> None:
    with pytest.raises(ValueError, match="not a stored state of task"):
        thaw(BY_NAME["task"], freeze(BY_NAME["build"], At(BY_NAME["build"].fold.initial, 0)))


def test_sql_reads_the_documented_list_in_the_stored_state_of_a_task() -> None:
    stored = orjson.loads(freeze(BY_NAME["task"], BY_NAME["task"].fold(ft())))
    assert stored["result_data"]["progress"][-1] == {
        "message": "Order placed successfully",
        "timestamp": "2025-11-23T10:00:25.890123Z",
    }
    assert (stored["type"], stored["status"]) == ("shopify_order", "completed")
    assert list(stored["result_data"]) == ["progress"]


# ----------------------------------------------------------------------------------------------- the number of the fold

RICH: dict[str, Any] = {
    "message": "Something is said",
    "error": "It broke",
    "severity": "soft",
    "progress": 50,
    "previewUrl": "https://x.dev",
    "buildLogUrl": "https://x.dev/log",
    "projectId": "crm",
    "prompt": "a page",
    "taskCount": 3,
    "plan": {"tasks": [{"id": "a", "name": "A", "estimatedDuration": 5}, {"id": "b", "name": "B", "needs": ["a"]}]},
    "taskId": "a",
    "details": {"filesCreated": ["a.html"], "error": "Too big"},
    "type": "shopify_order",
    "worker": "worker-1",
    "icon": "🌐",
    "steps": ["one", "two", "three"],
    "result": {"order": 5},
    "reason": "lease lost",
}
PLAIN: dict[str, Any] = {"taskName": "B"}
DOCUMENTED = {"build": F27, "task": FT}

PINNED: dict[str, tuple[int, str]] = {
    "build": (1, "49f222cb0bbd224e17284ea68ae1b7e6"),
    "task": (1, "41408ae7b86e2b5a3ffee3b02b0567db"),
}
"""What the folds of these numbers made of the logs below."""


def known_logs(name: str) -> Iterator[list[Event]]:
    """The fixtures, and every ordered pair of event types after a rich beginning, with much and with little data."""
    yield log(name, [(event["type"], event["data"]) for event in DOCUMENTED[name]["events"]])
    begin = {"build": "plan_generated", "task": "task_created"}[name]
    for first, second in product([*TYPES[name], "unheard_of"], repeat=2):
        yield log(name, [(first, RICH), (second, PLAIN)])
        yield log(name, [(begin, RICH), (first, PLAIN), (second, RICH), (second, RICH | {"severity": "fatal"})])


def digest_of(category: Category[Any]) -> str:
    digest = sha256()
    for events in known_logs(category.name):
        at = category.fold(events)
        digest.update(orjson.dumps(orjson.loads(freeze(category, at)), option=orjson.OPT_SORT_KEYS))
        digest.update(repr(category.labels(at.state)).encode())
    return digest.hexdigest()[:32]


@pytest.mark.parametrize("category", ALL, ids=lambda category: category.name)
def test_a_fold_that_means_something_else_has_another_number(category: Category[Any]) -> None:
    version, digest = PINNED.get(category.name, (0, ""))
    found = digest_of(category)
    assert (category.version, found) == (version, digest), (
        f"\nThe fold of {category.name!r} makes another state, or other labels, of the same events. Stored snapshots of"
        f" the old fold would be mixed with the new one.\nMeant? Raise version in eventstore/categories/{category.name}"
        f".py (pinned here: {version}; it is {category.version}), once per release, then set\n"
        f'    PINNED["{category.name}"] = ({max(category.version, version + (digest != found))}, "{found}")\n'
        "Not meant? Then the change has broken the fold."
    )
