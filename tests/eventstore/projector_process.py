"""A projector as a process of its own, to be killed, stopped and woken: ``-m ... DSN LEASE``. Says when it leads."""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

import anyio

from eventstore.follower import Rhythm
from eventstore.projector import projector
from eventstore.stores.cursors import PostgresCursors
from eventstore.stores.postgres import PostgresStore
from eventstore.stores.snapshots import PostgresSnapshots


async def main(dsn: str, lease: float) -> None:
    rhythm = Rhythm(lease=lease, renew=lease / 5, gather=0.001)
    async with PostgresStore(dsn) as store, anyio.create_task_group() as tasks:
        snapshots, cursors = PostgresSnapshots(store.connections), PostgresCursors(store.connections)
        follower = projector(store, snapshots, cursors, uuid4().hex, rhythm=rhythm, every=0.01)
        tasks.start_soon(follower.run)
        led = False
        while True:
            await anyio.sleep(0.005)
            if follower.is_active != led:
                led = follower.is_active
                print("leads" if led else "lost", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
