"""crash: kill -9 of Postgres and of the writer at random points, round after round, and the log keeps its word.

    python -m benchmarks.crash --rounds 200

What is struck: the writer; one process of Postgres (its postmaster then starts all others anew); all of Postgres at one
moment, for longer than anybody waits, or again while it recovers; both. Then what died is started again, on the same
data, and the journals of the writers (`crash_writer`) are held against the tables (`crash_audit`).

A kill -9 loses what a program had in its own memory, and not what the kernel has taken from it. So this proves that
nobody is answered before the commit has left Postgres; that the disk keeps what it is given is the part of fsync, which
is on. ``--sabotage`` turns synchronous_commit off: the proof has to fail then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.crash_audit import audit
from benchmarks.crash_scene import Broken, Database, Writer, until
from benchmarks.crash_writer import PATIENCE
from benchmarks.measure import Line
from benchmarks.place import disk_folder
from eventstore.errors import FoldstreamError
from eventstore.migrate import migrate
from foldstream.serve import sigterm_is_exit

STRIKES = {
    "writer": 5,
    "one process of Postgres": 2,
    "Postgres": 5,
    "Postgres, for long": 2,
    "Postgres, and again": 2,
    "both": 4,
}
"""What is killed in a round, and how often out of twenty."""

LONGEST = 0.4
"""Seconds that a round goes on after the first append has been answered, at most."""

FRESH = 10
"""Rounds after which the writer gets new streams; each round's audit reads only the newest."""

MOST_TOLD = 10


class Proof:
    """The rounds. seconds: what it took from a strike's repair to the first append begun and recorded after it."""

    def __init__(self, database: Database, writer: Writer, chance: random.Random) -> None:
        self._database = database
        self._writer = writer
        self._chance = chance
        self._streams = "0."
        self.struck: Counter[str] = Counter()
        self.seconds: list[float] = []

    def begin(self) -> None:
        """Start the first writer."""
        self._writer.start(f"build-{self._streams}")

    def round(self, number: int) -> list[str]:
        """Let them work, strike, repair, and give what is wrong."""
        self._until_it_works()
        time.sleep(self._chance.uniform(0, LONGEST))
        [what] = self._chance.choices(list(STRIKES), list(STRIKES.values()))
        self.struck[what] += 1
        self._strike(what)
        if what in ("writer", "both"):
            self._streams = f"{number // FRESH}."
            self._writer.start(f"build-{self._streams}")
        return self._wrong(self._streams)

    def end(self) -> list[str]:
        """What is wrong with all of the log, after everybody has had an answer."""
        self._until_it_works()
        self._writer.finish()
        silent = [f"{name} never got an answer" for name in self._writer.history.open]
        return silent + self._wrong("")

    def _strike(self, what: str) -> None:
        order = [self._writer.kill, self._database.kill]
        match what:
            case "writer":
                self._writer.kill()
            case "one process of Postgres":
                self._database.kill_one(self._chance)
            case "both":
                self._chance.shuffle(order)
                for kill in order:
                    kill()
            case _:
                self._database.kill()
        if what == "Postgres, for long":
            time.sleep(1.5 * PATIENCE)
        if what == "Postgres, and again":
            self._database.start()
            time.sleep(self._chance.uniform(0, 0.15))
            self._database.kill()
        if what not in ("writer", "one process of Postgres"):
            self._database.start()
            self._database.wait_ready()

    def _until_it_works(self) -> None:
        """An append that was begun after now has been recorded."""
        started = time.monotonic()
        self._writer.listen()
        early = set(self._writer.history.open)
        until(lambda: not early.issuperset(self._writer.listen()), "no append was recorded")
        self.seconds.append(time.monotonic() - started)

    def _wrong(self, streams: str) -> list[str]:
        """What was told before now against the tables of now; whatever lies there was begun before it is looked up."""
        self._writer.listen()
        told = self._writer.history.of(f"build-{streams}")
        rows, heads = self._database.log(streams)
        self._writer.listen()
        told.tried = self._writer.history.of(f"build-{streams}").tried
        return list(islice(audit(told, rows, heads), MOST_TOLD))


def prove(rounds: int, seed: int, *, minutes: float, sabotage: bool) -> tuple[list[str], list[tuple[str, float, str]]]:
    """What is wrong after so many rounds, and figures: name, value, unit. A round that finds something is the last."""
    started = time.monotonic()
    with disk_folder() as folder, Database(folder / "data") as database:
        _prepare(database, sabotage=sabotage)
        writer = Writer(database.dsn, folder, seed)
        proof = Proof(database, writer, random.Random(seed))
        wrong: list[str] = []
        done = 0
        try:
            proof.begin()
            while done < rounds and not wrong:
                if time.monotonic() - started > 60 * minutes:
                    raise Broken(f"only {done} of {rounds} rounds in {minutes:g} minutes; nothing else was wrong")
                wrong = proof.round(done)
                done += 1
                if done % 10 == 0:
                    _say(f"round {done}/{rounds}: {_state(writer)}, {time.monotonic() - started:.0f} s")
            wrong = wrong or proof.end()
        except Broken as broken:
            wrong.append(str(broken))
        finally:
            writer.stop()
        return wrong, list(_figures(proof, writer, done, time.monotonic() - started))


def _prepare(database: Database, *, sabotage: bool) -> None:
    asyncio.run(migrate(database.dsn))
    if sabotage:
        with database.connected() as connection:
            connection.autocommit = True
            connection.execute("ALTER SYSTEM SET synchronous_commit = off")
            connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            connection.execute("SELECT pg_reload_conf()")


def _state(writer: Writer) -> str:
    history = writer.history
    return (
        f"{len(history.acked):,} appends acknowledged, {len(history.unknown)} unknown, {len(history.refused)} refused"
    )


def _figures(proof: Proof, writer: Writer, rounds: int, seconds: float) -> Iterator[tuple[str, float, str]]:
    history = writer.history
    yield "rounds", rounds, "rounds"
    for what in STRIKES:
        yield f"struck: {what}", proof.struck[what], "times"
    yield "appends acknowledged", len(history.acked), "appends"
    yield "events acknowledged", sum(history.tried[name].size for name in history.acked), "events"
    yield "appends that were asked again", sum(len(told) > 1 for told in history.acked.values()), "appends"
    yield "appends that were told that nobody knows, or no answer", len(history.unknown), "appends"
    yield "appends that were told that nothing was recorded", len(history.refused), "appends"
    if proof.seconds:
        yield "from a strike's repair to the next append: median", median(proof.seconds), "s"
        yield "from a strike's repair to the next append: longest", max(proof.seconds), "s"
    yield "duration", seconds, "s"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the log has kept its word."""
    parser = argparse.ArgumentParser("python -m benchmarks.crash", description="kill -9, and the log keeps its word.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=27, help="what is struck and when (the rest is the machine's)")
    parser.add_argument("--minutes", type=float, default=8, help="it has failed when it is not through by then")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--sabotage", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not machine.PROC.joinpath("stat").exists():
        parser.error("this reads /proc: it needs Linux")
    others = round(machine.busy_percent(0.5), 1)
    try:
        with sigterm_is_exit():
            wrong, figures = prove(args.rounds, args.seed, minutes=args.minutes, sabotage=args.sabotage)
    except FoldstreamError as error:
        print(f"crash: {error.detail}\n{error.fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    conditions = {"bench": "crash", "seed": args.seed, "sabotage": args.sabotage, **machine.describe()}
    lines = [
        Line(f"crash: {name}", value, unit, None, None, {**conditions, "runs": [value], "others_cpu_percent": [others]})
        for name, value, unit in [*figures, ("what is wrong", len(wrong), "sentences")]
    ]
    print(*lines, *(f"WRONG: {sentence}" for sentence in wrong), sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps([line.as_json() for line in lines], indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
