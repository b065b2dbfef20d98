"""The contract of reading, over every store: any span against a list, and bytes that two interpreters agree on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import Event, NewEvent, StreamId
from eventstore import page as page_module
from eventstore.page import Rendered, Span, rendered
from eventstore.shape import Field, Given, Shape, joined
from eventstore.stores import pages
from streaming import wire
from tests.contract.conftest import Case

RUNS = count()
BUILD = StreamId("build", "27")
NUMBERS: Shape = (Field.VERSION, b" ")
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SPANS = st.builds(
    Span,
    after=st.integers(-1, 9) | st.just(2**53 - 1),
    limit=st.integers(0, 9),
    before=st.none() | st.integers(-1, 9) | st.just(2**53 - 1),
    types=st.lists(st.sampled_from(["a", "b", "nowhere"]), max_size=2),
    backward=st.booleans(),
)


def chosen(log: list[Event], span: Span) -> list[Event]:
    """The contract in one comprehension."""
    found = [
        event
        for event in log
        if event.version > span.after
        and (span.before is None or event.version < span.before)
        and (not span.types or event.type in span.types)
    ]
    return (found[::-1] if span.backward else found)[: span.limit]


async def read(case: Case, stream: StreamId, span: Span) -> list[Event]:
    after, limit, before, types, backward = span
    return await case.other.read(stream, after, limit, before=before, types=types, backward=backward)


@QUIET
@given(types=st.lists(st.sampled_from("abc"), max_size=8), spans=st.lists(SPANS, min_size=1, max_size=5))
async def test_any_span_is_what_a_list_gives(case: Case, types: list[str], spans: list[Span]) -> None:
    stream = StreamId("build", f"s{next(RUNS)}")
    log = await case.store.append(stream, [NewEvent(type_) for type_ in types]) if types else []
    for span in spans:
        expected = chosen(log, span)
        assert await read(case, stream, span) == expected
        page = await case.other.render(stream, NUMBERS, span)
        assert [int(number) for number in page.body.split()] == [event.version for event in expected]
        assert (page.count, page.floor, page.head) == (len(expected), 0, len(log))
        assert page == rendered(expected, NUMBERS, span, 0, len(log))


@QUIET
@given(
    types=st.lists(st.sampled_from("abc"), max_size=12),
    only=st.lists(st.sampled_from("ab"), max_size=2),
    limit=st.integers(1, 4),
    scan=st.integers(1, 5),
)
async def test_going_on_from_last_skips_nothing_and_comes_to_the_end(
    case: Case, types: list[str], only: list[str], limit: int, scan: int
) -> None:
    """Whatever ends a page: its limit, or that the types asked for are rare."""
    stream = StreamId("build", f"s{next(RUNS)}")
    log = await case.store.append(stream, [NewEvent(type_) for type_ in types]) if types else []
    expected = [event.version for event in log if not only or event.type in only]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "SCAN", scan)
        patch.setattr(pages, "SCAN", scan)
        patch.setattr(pages, "render", pages.render.__wrapped__)  # the statements of another SCAN are not kept
        forward: list[int] = []
        cursor, calls = 0, 0
        while cursor < len(log):
            page = await case.other.render(stream, NUMBERS, Span(cursor, limit, types=only))
            forward += map(int, page.body.split())
            assert page.last > cursor, "a cursor does not stand still before events of other types"
            cursor, calls = page.last, calls + 1
        backward: list[int] = []
        before = len(log) + 1
        while before > 1:
            page = await case.other.render(stream, NUMBERS, Span(0, limit, before, only, backward=True))
            backward += map(int, page.body.split())
            assert page.last < before
            before = page.last
    assert (forward, backward) == (expected, expected[::-1])


PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
NASTY = st.builds(
    NewEvent,
    type=st.from_regex(r"[A-Za-z][A-Za-z0-9._:-]{0,49}", fullmatch=True),
    data=st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)),
    at=INSTANTS | st.builds(lambda at, us: at.replace(microsecond=us), INSTANTS, st.sampled_from([0, 999, 999_999])),
    request_id=st.none() | PRINTABLE | st.sampled_from(['"', "\\", '\\"', "'", "%s", "%(a)s"]),
    traceparent=st.none() | st.just("00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
)
PIECES = st.one_of(
    st.sampled_from(Field),
    st.sampled_from([b"", b"%", b"%s%b", "ü\n\"'\\".encode(), b"data: "]),
    st.builds(Given, st.just(b'"%'), st.sampled_from([Field.TRACEPARENT, Field.TYPE]), st.sampled_from([b"", b'"'])),
)
SHAPES = st.lists(PIECES, max_size=8).map(lambda pieces: joined(*pieces))


@QUIET
@given(events=st.lists(NASTY, min_size=1, max_size=4), shape=SHAPES, category=st.sampled_from(["build", "task"]))
async def test_both_interpreters_write_the_same_bytes(
    case: Case, events: list[NewEvent], shape: Shape, category: str
) -> None:
    events = [event for event in events if category == "build" or event.type.startswith("x")] or [NewEvent("xyz")]
    stream = StreamId(category, f"a.b:c_{next(RUNS)}")
    await case.store.append(stream, events)
    log = await case.other.read(stream)
    for one in (shape, wire.sse_shape(stream), wire.update_shape(stream), wire.LISTED, wire.LINE):
        assert await case.other.render(stream, one, Span()) == rendered(log, one, Span(), 0, len(log))


async def test_a_page_of_large_events_ends_early_and_the_next_goes_on(case: Case) -> None:
    for _ in range(5):
        await case.store.append(BUILD, [NewEvent("custom", {"x": "y" * 60_000})] * 10)
    sizes, cursor = [], 0
    while cursor < 50:
        page = await case.other.render(BUILD, wire.sse_shape(BUILD), Span(cursor))
        sizes.append((page.count, page.last))
        cursor = page.last
    assert sizes == [(17, 17), (17, 34), (16, 50)], "17 of 60 KB are the first that are over a megabyte"
    backward = await case.other.render(BUILD, NUMBERS, Span(limit=1000, backward=True))
    assert (backward.count, backward.last) == (17, 34)


async def test_an_unknown_stream_is_an_empty_page(case: Case) -> None:
    assert await case.store.render(BUILD, NUMBERS, Span(3)) == Rendered(b"", 0, 3, 0, 0)


async def test_times_are_cut_not_rounded(case: Case) -> None:
    second = datetime(1969, 12, 31, 23, 59, 58, tzinfo=UTC)
    times = [second + timedelta(microseconds=us) for us in (0, 999, 1000, 999_000, 999_999)]
    await case.store.append(BUILD, [NewEvent("custom", at=at) for at in times])
    page = await case.other.render(BUILD, (Field.AT, b" "), Span())
    assert page.body == b"".join(b"1969-12-31T23:59:58.%bZ " % ms for ms in (b"000", b"000", b"001", b"999", b"999"))
