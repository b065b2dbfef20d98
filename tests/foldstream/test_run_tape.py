"""The tape: bytes become events at a bearable pace, whatever the bytes are; and what is told of a job's end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from eventstore import NewEvent, StreamId
from eventstore.admit import admit
from foldstream.commands.run import new_id
from foldstream.commands.running.child import Ending
from foldstream.commands.running.tape import (
    EVENT_BYTES,
    LINE_CHARS,
    LONG_RUN,
    LONG_RUN_PACE,
    PACE,
    TAIL_LINES,
    Tape,
    plain,
    progress_of,
)
from foldstream.commands.running.tracker import MOST_EVENTS, Tracker, last_event
from foldstream.settings import ClientSettings

pytestmark = pytest.mark.pure

RUN = StreamId("build", "27")


def all_of(*chunks: bytes, stream: str = "stdout") -> list[dict[str, Any]]:
    """What a command tells that writes ``chunks`` and ends, when nothing is taken before."""
    tape = Tape()
    for chunk in chunks:
        tape.hear(stream, chunk)
    return tape.rest()


def logs(*chunks: bytes) -> list[str]:
    return [line for data in all_of(*chunks) for line in data["logs"]]


def test_the_first_output_comes_at_once_and_then_four_events_a_second() -> None:
    tape = Tape()
    tape.hear("stdout", b"one\n")
    first = tape.take(100.0)
    assert first is not None
    assert first["logs"] == ["one"]
    tape.hear("stdout", b"two\n")
    tape.hear("stdout", b"three\n")
    assert tape.take(100.1) is None
    assert tape.wait(100.1) == pytest.approx(PACE - 0.1)
    second = tape.take(100.0 + PACE)
    assert second is not None
    assert second["logs"] == ["two", "three"]


def test_a_long_run_is_told_more_slowly() -> None:
    tape = Tape()
    now = 0.0
    for _ in range(LONG_RUN):
        tape.hear("stdout", b"x\n")
        assert tape.take(now)
        now += PACE
    tape.hear("stdout", b"x\n")
    assert tape.take(now) is None
    assert tape.take(now + LONG_RUN_PACE)


def test_nothing_heard_is_nothing_told() -> None:
    tape = Tape()
    assert tape.take(1.0) is None
    assert tape.wait(1.0) == 0
    assert tape.rest() == []


def test_both_streams_have_their_turn() -> None:
    tape = Tape()
    told = []
    for turn in range(4):
        tape.hear("stdout", b"out\n")
        tape.hear("stderr", b"err\n")
        data = tape.take(turn * PACE)
        assert data is not None
        told.append(data["stream"])
    assert told == ["stdout", "stderr", "stdout", "stderr"]


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a\r\nb\r\n"], ["a", "b"]),
        ([b"a\r", b"\nb"], ["a", "b"]),
        ([b"no end of line"], ["no end of line"]),
        ([b"two ", b"pieces\n"], ["two pieces"]),
        ([b"\n\n"], ["", ""]),
        ([b"10%\r20%\r30%\n"], ["30%"]),
        ([b"10%\r", b"20%\r", b"30%"], ["30%"]),
        ([b"done\r\r\n"], ["done"]),
        ([b"caf\xc3", b"\xa9\n"], ["café"]),
        ([b"bad \xff\xfe byte\n"], ["bad \ufffd\ufffd byte"]),
        ([b"cut off \xc3"], ["cut off \ufffd"]),
        ([b"nul \x00 here\n"], ["nul \ufffd here"]),
        ([b"\xed\xa0\x80 surrogate\n"], ["\ufffd\ufffd\ufffd surrogate"]),
        ([b"\x1b[31mred\x1b[0m\n"], ["\x1b[31mred\x1b[0m"]),
    ],
)
def test_lines_are_what_a_terminal_would_show(chunks: list[bytes], lines: list[str]) -> None:
    assert logs(*chunks) == lines


def test_an_unfinished_line_waits_for_its_end() -> None:
    tape = Tape()
    tape.hear("stdout", b"Continue? [y/N] ")
    assert tape.take(1.0) is None
    tape.hear("stdout", b"y\n")
    data = tape.take(2.0)
    assert data is not None
    assert data["logs"] == ["Continue? [y/N] y"]


def test_a_long_line_is_cut_with_a_mark() -> None:
    assert logs(b"x" * (LINE_CHARS + 7) + b"\n") == ["x" * LINE_CHARS + " … [7 more characters]"]


def test_a_long_line_in_pieces_is_counted_as_one() -> None:
    tape = Tape()
    for turn in range(10):
        tape.hear("stdout", b"x" * 1000)
        assert tape.take(turn * PACE) is None
    tape.hear("stdout", b"\nnext\n")
    data = tape.take(99.0)
    assert data is not None
    assert data["logs"] == ["x" * LINE_CHARS + " … [8,000 more characters]", "next"]


def test_a_flood_keeps_the_newest_lines_and_says_how_many_it_dropped() -> None:
    count = 100_000
    (data,) = all_of(*(b"line %d\n" % number for number in range(count)))
    assert data["logs"][-1] == f"line {count - 1}"
    assert data["dropped"] + len(data["logs"]) == count
    first = int(data["logs"][0].split()[1])
    assert data["logs"] == [f"line {number}" for number in range(first, count)]


def test_a_flood_is_counted_whatever_the_chunks_are() -> None:
    flood = b"".join(b"line %d\n" % number for number in range(50_000))
    for size in (100, 4096, 65_536, len(flood)):
        (data,) = all_of(*(flood[begin : begin + size] for begin in range(0, len(flood), size)))
        assert data["dropped"] + len(data["logs"]) == 50_000


def test_a_giant_without_line_ends_is_one_lost_line() -> None:
    (data,) = all_of(*[b"x" * 65_536] * 20)
    assert data["logs"] == []
    assert data["dropped"] == 1


@given(st.lists(st.binary(max_size=3000), max_size=30), st.booleans())
def test_any_bytes_make_events_that_the_log_takes(chunks: list[bytes], taken_between: bool) -> None:
    tape = Tape()
    told = []
    for turn, chunk in enumerate(chunks):
        tape.hear("stdout" if turn % 3 else "stderr", chunk)
        if taken_between and (data := tape.take(turn * PACE)) is not None:
            told.append(data)
    told += tape.rest()
    for data in told:
        assert sum(len(line.encode()) for line in data["logs"]) <= EVENT_BYTES
    if told:
        admit(RUN, [NewEvent("run_output", data) for data in told])
    admit(RUN, [last_event(Ending(1, 0.5), tape.tail())])


def test_the_worst_text_still_fits_into_an_event() -> None:
    for byte in (b"\x1b", b"\x01", b'"', b"\xff", b"\n", "🎉".encode()):
        for data in all_of(byte * 100_000, (byte * 500 + b"\n") * 100):
            admit(RUN, [NewEvent("run_output", data)])


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("[ 45%] Building CXX object", 45),
        ("tests/test_x.py ........ [ 45%]", 45),
        ("import:  45%|████▌     | 45/100 [00:10<00:12]", 45),
        (" 45%|####", 45),
        ("45% done", 45),
        ("[12/100] CC main.o", 12),
        ("[ 3/ 8] RUN pip install", 37),
        ("src/app.py      10      2    80%", None),
        ("coverage: 80% of lines", None),
        ("[2025/07] a month", None),
        ("145% of the plan", None),
        ("[0/0] nothing", None),
        ("nothing", None),
    ],
)
def test_progress_is_read_where_it_is_surely_meant(line: str, progress: int | None) -> None:
    assert progress_of(line) == progress


def test_progress_never_goes_back_and_is_told_once() -> None:
    tape = Tape()
    told = []
    for turn, line in enumerate([b"[ 10%] a\n", b"[ 40%] b\n", b"[ 20%] c\n", b"d\n", b"[ 41%] e\n"]):
        tape.hear("stdout", line)
        told.append((tape.take(turn * PACE) or {}).get("progress"))
    assert told == [10, 40, None, None, 41]


def test_a_bar_that_is_written_over_tells_its_progress_without_lines() -> None:
    tape = Tape()
    tape.hear("stderr", b"\r 10%|#         | 1/10")
    tape.hear("stderr", b"\r 20%|##        | 2/10")
    data = tape.take(1.0)
    assert data is not None
    assert (data["stream"], data["logs"], data["progress"]) == ("stderr", [], 20)
    assert data["message"] == "20%|##        | 2/10"


def test_the_message_is_the_last_line_without_colours() -> None:
    (data,) = all_of(b"\x1b[32mcompiling\x1b[0m main.c\n\n")
    assert data["message"] == "compiling main.c"


def test_the_tail_holds_the_last_lines_of_both_streams() -> None:
    tape = Tape()
    for number in range(50):
        tape.hear("stdout", b"out %d\n" % number)
    tape.hear("stderr", b"\x1b[31mKeyError\x1b[0m: 'x'\n")
    tape.rest()
    tail = tape.tail().splitlines()
    assert len(tail) == TAIL_LINES
    assert tail[-2:] == ["out 49", "KeyError: 'x'"]


@pytest.mark.parametrize(("out", "err"), [(0, 0), (0, 3), (3, 0), (5, 50), (50, 5), (50, 50), (20, 0), (0, 50)])
def test_neither_stream_crowds_the_other_out_of_the_tail(out: int, err: int) -> None:
    tape = Tape()
    tape.hear("stderr", b"".join(b"err %d\n" % number for number in range(err)))
    tape.hear("stdout", b"".join(b"out %d\n" % number for number in range(out)))
    tape.rest()
    tail = tape.tail().splitlines()
    half = TAIL_LINES // 2
    shown_err = min(err, max(half, TAIL_LINES - out))
    shown_out = min(out, TAIL_LINES - shown_err)
    assert tail == [f"out {n}" for n in range(out - shown_out, out)] + [f"err {n}" for n in range(err - shown_err, err)]


def test_plain_takes_out_all_that_is_not_text() -> None:
    assert plain("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x07bell\ttab") == "red link bell\ttab"


@pytest.mark.parametrize(
    ("ending", "type_", "expected"),
    [
        (Ending(0, 24.13), "run_completed", {"exitCode": 0, "duration": 24.13, "message": "Finished in 24.1 s"}),
        (
            Ending(3, 1.0),
            "run_failed",
            {"exitCode": 3, "duration": 1.0, "message": "Failed with exit code 3", "error": "the tail"},
        ),
        (
            Ending(-9, 1.0),
            "run_failed",
            {
                "exitCode": 137,
                "duration": 1.0,
                "signal": "SIGKILL",
                "message": "Killed by SIGKILL",
                "error": "the tail",
            },
        ),
        (
            Ending(-2, 1.0, stopped_by=2),
            "run_cancelled",
            {"exitCode": 130, "duration": 1.0, "signal": "SIGINT", "message": "Cancelled by SIGINT"},
        ),
        (
            Ending(0, 1.0, stopped_by=15),
            "run_cancelled",
            {"exitCode": 0, "duration": 1.0, "signal": "SIGTERM", "message": "Cancelled by SIGTERM"},
        ),
        (
            Ending(127, 0.0, error="x: command not found"),
            "run_failed",
            {
                "exitCode": 127,
                "duration": 0.0,
                "message": "x: command not found",
                "error": "x: command not found",
            },
        ),
    ],
)
def test_each_end_has_its_event(ending: Ending, type_: str, expected: dict[str, Any]) -> None:
    event = last_event(ending, "the tail")
    assert (event.type, event.data) == (type_, expected)


def test_a_failure_without_output_says_its_code() -> None:
    assert last_event(Ending(3, 1.0), "").data["error"] == "Failed with exit code 3"


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_new_ids_are_ulids(millis: int, chance: int) -> None:
    ulid = ULID.from_str(new_id(millis, chance))
    assert int(ulid) == millis << 80 | chance


def test_a_server_that_stays_away_costs_bounded_memory_and_loses_no_count() -> None:
    """What cannot be sent is kept up to a bound; from there on lines are dropped, and counted once it goes on."""
    tracker = Tracker(RUN, ClientSettings(), {})
    total = 3 * MOST_EVENTS
    for turn in range(total):
        tracker.hear("stdout", b"x" * 100 + b"\n")
        tracker.collect(turn * LONG_RUN_PACE)
        assert tracker.undelivered <= MOST_EVENTS
    sent = []
    now = total * LONG_RUN_PACE
    while batch := tracker.batch():
        sent += batch
        tracker.sent(len(batch))
        now += LONG_RUN_PACE
        tracker.collect(now)
    lines = [len(event.data["logs"]) + event.data.get("dropped", 0) for event in sent if event.type == "run_output"]
    assert sum(lines) == total
    assert len({event.key for event in sent}) == len(sent)
    assert tracker.undelivered == 0
