"""delivery: sends what a `Tracker` holds, from a thread of its own, as long as the job runs and a little longer.

A server that is away is asked again and again while the job runs. After the job's end, one that has ever answered is
waited for (the caller says how long), as its page would show a run that never ends; one that never was there is asked
once more and left.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

from eventstore.errors import FoldstreamError, Invalid, KeyReused, TooLarge, Unreachable
from foldstream.client import Client, full_jitter
from foldstream.commands.running.tracker import Tracker

REFUSED_EVENT = (Invalid, KeyReused, TooLarge)
"""Errors that an event causes and not the connection: the next one may pass."""


def deliver(tracker: Tracker) -> None:
    """Send until the job has ended and all is sent, or nothing can be."""
    asyncio.run(_Delivery(tracker).run())


class _Delivery:
    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._news = asyncio.Event()  # the job has written, or ended
        self._more = asyncio.Event()  # there is something to be sent
        self._ended = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has closed: there is nobody to be woken
                loop.call_soon_threadsafe(self._wake)

        self._tracker.wake = wake
        self._wake()  # for what came before
        settings = self._tracker.settings
        async with Client(settings.url, settings.token, attempts=1) as client, asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(self._collect())
            await self._send(client)
            collecting.cancel()

    def _wake(self) -> None:
        self._news.set()
        if self._tracker.ended:
            self._ended.set()
            self._more.set()

    async def _collect(self) -> None:
        while True:
            self._news.clear()
            pause = self._tracker.collect(time.monotonic())
            self._more.set()
            if pause is None:
                await self._news.wait()
            else:
                await asyncio.sleep(pause)

    async def _send(self, client: Client) -> None:
        failures, answered, most = 0, False, None
        while True:
            self._more.clear()
            ended = self._tracker.ended
            batch = self._tracker.batch()[:most]
            if not batch:
                if ended:
                    return
                await self._more.wait()
                continue
            try:
                await client.append(str(self._tracker.run), batch)
            except REFUSED_EVENT as error:
                if len(batch) == 1:
                    self._tracker.refuse(error)
                most = 1  # to find out which one it is
            except FoldstreamError as error:
                answered = answered or not isinstance(error, Unreachable)
                if not error.retryable or (ended and not answered):
                    self._tracker.fail(error)
                    return
                failures = 1 if ended else failures + 1  # little time is left then
                await self._pause(max(error.retry_after or 0.0, full_jitter(failures, random.random())))  # noqa: S311
            else:
                self._tracker.sent(len(batch))
                failures, answered, most = 0, True, None

    async def _pause(self, seconds: float) -> None:
        """Wait; the job's end cuts it short."""
        if self._ended.is_set():
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
