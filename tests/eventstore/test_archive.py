"""Archive: what is exported and imported is the same, byte for byte; what was changed on the way is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import START, Event, NewEvent, StreamId
from eventstore.archive import Archived, Tail, line, parse, parsed
from eventstore.errors import CannotStart, Invalid
from eventstore.stores import whole
from eventstore.stores.bulk import BATCH_BYTES, load
from eventstore.stores.postgres import PostgresStore
from tests.eventstore.logs import BEGIN, BUILD_27, f27

PRETTY = '{\n  "a" : 1.0,\r\n\t"b":\t1e2,\n  "\\u00fc": "\\/ ü \\ud83d\\ude00 \u2028 \u0085", "a": 1\n}'
NASTY = [
    "{}",
    " { } ",
    '{"b":1.0,"a":1,"c":1e400,"d":-0,"n":12345678901234567890123}',
    '{"a":1,"a":2,"a":{"a":3}}',
    '{"data":{"a":1},"text":"}\\n","x":",\\"data\\":{}"}',
    '{"quote\\"s":"back\\\\slash","tab":"\\t","del":"\u007f","sep":"\u2028\u2029\u0085"}',
    '{"ü":"\\u00fc","emoji":"😀","pair":"\\ud83d\\ude00"}',
    PRETTY,
    '{"one":\r1}',
    '{"big":"' + "x" * 65_000 + '"}',
    '{"deep":' + "[" * 2000 + "]" * 2000 + "}",
]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def exported(database: str, *, category: str | None = None) -> list[bytes]:
    async with whole.connected(database) as connection:
        return [
            line(archived)
            async for page in whole.places(connection, category)
            async for _, found in whole.events(connection, page)
            for archived in found
        ]


def chained(stream: StreamId, datas: Iterable[bytes]) -> list[Archived]:
    tail, found = Tail(stream), []
    for version, data in enumerate(datas, 1):
        event = Event(stream, version, START, "custom", data, BEGIN + timedelta(microseconds=version))
        tail.take(Archived(event))
        found.append(Archived(event, None, tail.hash))
    return found


async def a_log(database: str) -> None:
    """Build 27, a stream of everything that is hard to copy, and one that SQL wrote."""
    async with PostgresStore(database) as store, await psycopg.AsyncConnection.connect(database) as sql:
        await store.append(BUILD_27, f27())
        await store.append(
            StreamId("build", "a-b:c.D_e"),
            [NewEvent("x", {"ü": "\n"}, 'k",\\"data":{', BEGIN, 'r",\\', TRACE), NewEvent("y", key="{}'")],
        )
        for n, data in enumerate(NASTY):
            await sql.execute("SELECT append_event('build-nasty', 'custom', %s, %s)", (data, f"k{n}"))
        at = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
        await sql.execute("SELECT append_event('build-nasty', 'custom', p_at => %s, p_schema => 32767)", (at,))
        await sql.execute("SELECT append_event('unknown-kind', 'custom')")


@pytest.mark.pure
@pytest.mark.parametrize("data", NASTY)
def test_an_event_is_one_line_and_comes_back_with_the_same_bytes(data: str) -> None:
    [archived] = chained(BUILD_27, [data.encode()])
    text = line(archived)
    assert text.count(b"\n") == 1
    assert b"\r" not in text
    assert parse(text) == archived
    assert line(parse(text)) == text


@pytest.mark.pure
def test_a_line_is_json_that_anybody_can_read() -> None:
    [archived] = chained(BUILD_27, [b'{"a":1.0}'])
    assert json.loads(line(archived)) == {
        "stream": "build-27",
        "version": 1,
        "type": "custom",
        "at": "2025-07-22T07:13:50.000001Z",
        "schema": 1,
        "hash": archived.hash.hex() if archived.hash else "",
        "data": {"a": 1.0},
    }
    [archived] = chained(BUILD_27, [PRETTY.encode()])
    assert json.loads(json.loads(line(archived))["text"]) == json.loads(PRETTY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)
YEARS = st.datetimes(timezones=st.just(UTC))


@pytest.mark.pure
@given(
    st.dictionaries(st.text(), JSON),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
    st.none() | VISIBLE,
    st.none() | VISIBLE,
    YEARS,
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_event_comes_back_as_it_was(
    data: dict[str, object],
    indent: int | str | None,
    ascii_: bool,
    key: str | None,
    request_id: str | None,
    at: datetime,
) -> None:
    try:
        written = json.dumps(data, indent=indent, ensure_ascii=ascii_).encode()
    except UnicodeEncodeError:  # a lone surrogate: no store takes it
        return
    event = Event(BUILD_27, 7, START, "a.b:c-d", written, at, request_id, TRACE, 3)
    archived = Archived(event, key, bytes(range(32)))
    text = line(archived)
    assert text.count(b"\n") == 1
    assert parse(text) == archived


@pytest.mark.pure
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:40], "truncated"),
        (lambda text: text[:-3], "no end"),
        (lambda text: b"", "truncated|empty|end"),
        (lambda text: b"[1]", "object"),
        (lambda text: text.replace(b'"version":1', b'"version":"1"'), "version"),
        (lambda text: text.replace(b'"schema"', b'"scheme"'), "scheme"),
        (lambda text: text.replace(b"000001Z", b"000001"), "no zone"),
        (lambda text: text.replace(b'"build-27"', b'"nobody"'), "not a stream name"),
        (lambda text: text.replace(b',"data":{}', b""), "data"),
        (lambda text: text.replace(b'"data":{}', b'"text":"{}","data":{}'), "data"),
        (lambda text: text.replace(b'"hash":"', b'"hash":"zz'), "hex"),
    ],
)
def test_a_line_that_is_none_is_named(change: Callable[[bytes], bytes], words: str) -> None:
    good = line(chained(BUILD_27, [b"{}"])[0])
    with pytest.raises(Invalid, match=f"line 2.*({words})"):
        list(parsed([good, change(good)]))


async def test_export_import_export_gives_the_same_bytes(database: str, second_database: str) -> None:
    await a_log(database)
    lines = await exported(database)
    assert len(lines) == 12 + 2 + len(NASTY) + 1 + 1
    assert await load(second_database, parsed(lines)) == (4, len(lines), 0)
    assert await exported(second_database) == lines
    async with PostgresStore(database) as one, PostgresStore(second_database) as other:
        for stream in (BUILD_27, StreamId("build", "a-b:c.D_e")):
            there = [(e.version, e.type, e.json, e.at, e.request_id, e.schema) for e in await other.read(stream)]
            here = [(e.version, e.type, e.json, e.at, e.request_id, e.schema) for e in await one.read(stream)]
            assert there == here
        [event] = await other.append(BUILD_27, [NewEvent("custom")])
        assert event.version == 13, "an imported stream goes on"
        assert (await other.append(StreamId("build", "a-b:c.D_e"), [NewEvent("y", key="{}'")]))[0].version == 2, (
            "keys, too"
        )
    assert len(await exported(database, category="unknown")) == 1


NAMES = ("a", "b", "c")


def random_json(chance: random.Random, depth: int = 0) -> str:
    """JSON as nobody writes it: any white space between tokens, any spelling of strings and numbers, keys repeated."""
    space = "".join(chance.choices(" \t\n\r", k=chance.choice((0, 0, 0, 1, 3))))
    kind = chance.randrange(6 if depth < 4 else 4)
    if kind == 0 and depth:
        return space + chance.choice(
            ("1", "1.0", "-0", "1e5", "1E+400", "0.10", "123456789012345678901", "true", "null")
        )
    if kind < 4 and depth:
        parts = (
            "a",
            "ü",
            "😀",
            '\\"',
            "\\\\",
            "\\/",
            "\\u00fc",
            "\\n",
            "\\ud83d\\ude00",
            "\u2028",
            "\u0085",
            "}",
            ',\\"data\\":',
        )
        return f'{space}"{"".join(chance.choices(parts, k=chance.randrange(6)))}"{space}'
    items = [random_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 5 and depth:
        return f"{space}[{','.join(items)}{space}]"
    members = ",".join(f'{space}"{chance.choice(NAMES)}"{space}:{item}' for item in items)
    return f"{space}{{{members}{space}}}{space}"


async def test_whatever_json_postgres_took_survives(database: str, second_database: str) -> None:
    chance = random.Random(27)
    async with await psycopg.AsyncConnection.connect(database) as sql:
        for n in range(400):
            await sql.execute("SELECT append_event(%s, 'custom', %s)", (f"build-{n % 7}", random_json(chance)))
    lines = await exported(database)
    assert sum(b',"text":' in text for text in lines) > 50
    assert await load(second_database, parsed(lines)) == (7, 400, 0)
    assert await exported(second_database) == lines


async def test_events_of_several_streams_may_be_mixed(database: str, second_database: str) -> None:
    await a_log(database)
    lines = await exported(database)
    order = sorted(range(len(lines)), key=lambda n: (parse(lines[n]).event.version, n))
    await load(second_database, parsed(lines[n] for n in order))
    assert await exported(second_database) == lines


async def test_followers_read_an_import_in_its_order(database: str) -> None:
    one, other = StreamId("build", "1"), StreamId("build", "2")
    pairs = zip(chained(one, [b"{}"] * 30), chained(other, [b"{}"] * 30), strict=True)
    await load(database, [archived for pair in pairs for archived in pair])
    async with PostgresStore(database) as store:
        seen = await store.read_all()
        assert [e.version for e in seen if e.stream == one] == list(range(1, 31))
        assert [e.version for e in seen if e.stream == other] == list(range(1, 31))
        assert [(line.stream, line.head) for line in await store.recent("build")] == [(other, 30), (one, 30)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda lines: [*lines[:4], lines[4].replace(b"message", b"massage"), *lines[5:]],
            "event 5 .* build-27.*changed",
        ),
        (lambda lines: [*lines[:4], *lines[5:]], "event 5 .* build-27: version 6 comes where 5 is expected"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "event 5 .* build-27: version 6 comes"),
        (lambda lines: lines[1:], "event 1 .* build-27: version 2 comes where 1"),
        (lambda lines: [*lines, lines[-1]], "event 13 .* build-27: version 12 comes where 13"),
        (lambda lines: [text.replace(b"build-27", b"build-28") for text in lines], "event 1 .* build-28.*changed"),
        (lambda lines: [*lines[:7], b"{}\n"], "line 8 is not an event"),
    ],
)
async def test_a_file_that_was_changed_is_refused_as_a_whole(
    database: str, second_database: str, change: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, f27())
    lines = change(await exported(database))
    with pytest.raises(Invalid, match=words):
        await load(second_database, parsed(lines))
    assert await exported(second_database) == []
    async with PostgresStore(second_database) as store:
        assert await store.heads([BUILD_27, StreamId("build", "28")]) == {}


async def test_a_stream_that_is_there_with_all_that_comes_is_passed_over(database: str) -> None:
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, f27())
        lines = await exported(database)
        assert await load(database, parsed(lines)) == (0, 0, 1)
        assert await load(database, parsed(lines[:5])) == (0, 0, 1)
        await store.append(BUILD_27, [NewEvent("custom")])
        new = chained(StreamId("build", "28"), [b"{}"])
        assert await load(database, [*parsed(lines), *new]) == (1, 1, 1)
        assert len(await store.read(BUILD_27)) == 13


async def test_a_stream_that_is_there_and_differs_refuses_the_file(database: str) -> None:
    new = chained(StreamId("build", "28"), [b"{}"])
    async with PostgresStore(database) as store:
        await store.append(BUILD_27, [NewEvent("custom")])
        for other in (
            chained(BUILD_27, [b"{}"]),
            [*parsed(await exported(database)), *chained(BUILD_27, [b"{}"] * 2)[1:]],
        ):
            with pytest.raises(Invalid):
                await load(database, [*new, *other])
        with pytest.raises(Invalid, match="build-27 exists already"):
            await load(database, [*new, *chained(BUILD_27, [b"{}"] * 3)])
        assert await store.heads([StreamId("build", "28")]) == {}


async def test_what_the_tables_refuse_is_said_and_leaves_nothing(database: str) -> None:
    for data in (b"[]", b"{", b'{"a":"\\u0000"}', b'{"a":"\xff"}'):
        with pytest.raises(Invalid, match="refused"):
            await load(database, chained(BUILD_27, [b"{}", data]))
    twice = [archived._replace(key="k") for archived in chained(BUILD_27, [b"{}", b"{}"])]
    with pytest.raises(Invalid, match="came up twice"):
        await load(database, [archived._replace(hash=None) for archived in twice])
    assert await exported(database) == []


async def test_a_load_makes_the_hashes_that_are_missing(database: str) -> None:
    made = chained(BUILD_27, [b"{}", b'{"a":1}'])
    await load(database, [archived._replace(hash=None) for archived in made])
    assert [parse(text) for text in await exported(database)] == made


async def test_who_appends_meanwhile_does_not_wait_and_wins_the_name(database: str) -> None:
    async with PostgresStore(database, patience=2) as store:

        def events() -> Iterable[Archived]:
            yield from chained(StreamId("build", "1"), [b"{}"] * 6000)
            with psycopg.connect(database, autocommit=True) as sql:  # in the middle of the load
                sql.execute("SET lock_timeout = '1s'")
                sql.execute("SELECT append_event('build-1', 'custom')")
            yield from chained(StreamId("build", "2"), [b"{}"])

        with pytest.raises(Invalid, match=r"came up twice: Key .*build, 1"):
            await load(database, events())
        assert len(await store.read(StreamId("build", "1"))) == 1
        assert await load(database, chained(StreamId("build", "2"), [b"{}"]), seal=True) == (1, 1, 0)


async def test_only_the_owner_imports(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as sql:
        await sql.execute("DROP ROLE IF EXISTS importer_of_the_test")
        await sql.execute("CREATE ROLE importer_of_the_test LOGIN IN ROLE foldstream_app")
        try:
            with pytest.raises(CannotStart, match="not the owner"):
                await load(database.replace("postgres@", "importer_of_the_test@"), [])
        finally:
            await sql.execute("DROP ROLE importer_of_the_test")


async def test_a_long_stream_is_read_in_pages_and_short_ones_together(database: str) -> None:
    long = StreamId("build", "long")
    short = [StreamId("build", f"s{n:03d}") for n in range(300)]
    many = [
        archived
        for stream in [long, *short]
        for archived in chained(stream, [b"{}"] * (12_000 if stream == long else 40))
    ]
    await load(database, many)
    async with whole.connected(database) as connection:
        sizes: dict[StreamId, list[int]] = {}
        async for page in whole.places(connection):
            async for place, found in whole.events(connection, page):
                sizes.setdefault(place.stream, []).append(len(found))
                assert found[0].event.version == 1 + sum(sizes[place.stream][:-1])
    assert sizes.pop(long) == [5000, 5000, 2000]
    assert sizes == {stream: [40] for stream in short}


async def test_a_batch_of_a_load_ends_after_some_bytes(database: str) -> None:
    data = b'{"a":"%b"}' % (b"x" * 60_000)
    read, batches = 0, []

    def counted() -> Iterator[Archived]:
        nonlocal read
        for archived in chained(StreamId("build", "big"), [data] * 700):
            read += len(data)
            yield archived

    def told(_: int) -> None:
        batches.append(read)

    await load(database, counted(), told=told)
    assert max(after - before for before, after in pairwise([0, *batches])) < BATCH_BYTES + len(data)
    assert len(await exported(database)) == 700
