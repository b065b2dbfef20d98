"""crash_writer: the process that appends, writes down what it is told, and is killed.

Its journal gets a line before an append is begun and a line after it was answered, each by one write() to a file:
what is in it outlives a kill -9 of this process. A last line without an end was never said.
Ends when its standard input does, after every append has been answered; without a database, after half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import orjson

from benchmarks.crash_audit import TYPE, Append, data_of, key_of
from eventstore.errors import Unavailable
from eventstore.event import NewEvent, StreamId
from eventstore.stores.postgres import PostgresStore

PRODUCERS = 32
STREAMS = 8
LONGEST = 20
PATIENCE = 1.0
LAST_WORDS = 25.0
"""Seconds for the answers that are still due when it has been asked to end."""

PAUSE = 0.01
"""Seconds before somebody who was turned down asks again."""


class Journal:
    """begun: [name, stream, size, keyed]. recorded: [name, versions]. refused, unknown: [name]."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(self, what: str, *words: object) -> None:
        """Returns when the line is with the kernel."""
        line = orjson.dumps([what, *words]) + b"\n"
        assert os.write(self._file, line) == len(line)


async def append(store: PostgresStore, journal: Journal, one: Append) -> bool:
    """Append until there is an answer; without keys there is one attempt. Whether it is recorded for certain."""
    events = [NewEvent(TYPE, data_of(one, part), key=key_of(one, part)) for part in range(one.size)]
    while True:
        try:
            recorded = await store.append(StreamId.parse(one.stream), events)
        except Unavailable as error:
            if not one.keyed:
                journal.tell("unknown" if "unknown" in error.detail else "refused", one.name)
                return False
            await asyncio.sleep(PAUSE)
        else:
            journal.tell("recorded", one.name, [event.version for event in recorded])
            return True


def plans(writer: str, producer: int, streams: str, chance: random.Random) -> Iterator[Append]:
    """What one producer appends: single events and lists, with keys and without."""
    for number in count():
        size = 1 if chance.random() < 0.5 else chance.randint(2, LONGEST)
        stream = f"{streams}{chance.randrange(STREAMS)}"
        yield Append(f"{writer}:{producer}:{number}", stream, size, chance.random() < 0.5)


async def produce(store: PostgresStore, journal: Journal, mine: Iterator[Append], ended: asyncio.Event) -> None:
    """Append one after the other; now and then repeat what was answered, which must give the same answer."""
    for number, one in enumerate(mine):
        journal.tell("begun", *one)
        if await append(store, journal, one) and one.keyed and number % 20 == 0:
            await append(store, journal, one)
        if ended.is_set():
            return


async def run(dsn: str, journal: Journal, producers: Sequence[Iterator[Append]], again: Sequence[Append]) -> None:
    """``again``: what an earlier writer began and this one has to bring to an end, by the same keys."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(sys.stdin.fileno())
        loop.call_later(LAST_WORDS, os._exit, 3)  # whoever started it may be dead, and its database too
        ended.set()

    loop.add_reader(sys.stdin.fileno(), end)
    store = PostgresStore(dsn, patience=PATIENCE)
    while True:
        with suppress(Unavailable):
            await store.open()
            break
        store = PostgresStore(dsn, patience=PATIENCE)  # a pool cannot be opened twice
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in again:
                tasks.create_task(append(store, journal, one))
            for mine in producers:
                tasks.create_task(produce(store, journal, mine, ended))
    finally:
        await store.close()


def main() -> None:
    """Called by `crash` only."""
    parser = argparse.ArgumentParser("python -m benchmarks.crash_writer")
    for word in ("dsn", "journal", "name", "streams", "again"):
        parser.add_argument(f"--{word}", required=True)
    args = parser.parse_args()
    chance = random.Random(args.name)
    producers = [plans(args.name, n, args.streams, chance) for n in range(PRODUCERS)]
    again = [Append(*words) for words in orjson.loads(args.again)]
    asyncio.run(run(args.dsn, Journal(Path(args.journal)), producers, again))


if __name__ == "__main__":
    main()
