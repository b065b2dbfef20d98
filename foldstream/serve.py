"""serve: a listening socket, a server before the service, and an end within two seconds.

The order matters to people: first what can be refused at once (the port, the settings), then the embedded servers, then
the database, then the address is printed, when the first request would be answered.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import anyio
import uvicorn
import uvloop

from eventstore.errors import CannotStart, FoldstreamError
from foldstream.migrations import migrate
from foldstream.service import Service, open_service
from foldstream.services import Services, local_services
from foldstream.settings import Settings

log = logging.getLogger(__name__)

GRACE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: the web application on ``listener`` (None: no web), and the pipeline's worker or not."""

    settings: Settings
    listener: socket.socket | None
    worker: bool
    migrate: bool
    ready: Callable[[Settings], None] = lambda settings: None


def run(plan: Plan) -> int:
    """Run until SIGINT or SIGTERM. Raises CannotStart."""
    settings = plan.settings
    with (
        sigterm_is_exit(),
        local_services(
            settings.data_dir, database_url=settings.database_url or None, redis_url=settings.redis_url or None
        ) as services,
    ):
        try:
            uvloop.run(_main(plan, services))
        except BaseExceptionGroup as group:
            # Task groups wrap what goes wrong inside them; a person wants the one sentence.
            raise next(iter(_foreseen(group)), group) from None
    return 0


def _foreseen(group: BaseExceptionGroup[BaseException]) -> list[FoldstreamError]:
    """The errors of ours in a group, however deep."""
    found: list[FoldstreamError] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found.extend(_foreseen(error))
        elif isinstance(error, FoldstreamError):
            found.append(error)
    return found


@contextmanager
def sigterm_is_exit() -> Iterator[None]:
    """While the embedded servers start and stop, SIGTERM unwinds like Ctrl-C, so that they are stopped too."""

    def leave(number: int, frame: object) -> None:
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listen(host: str, port: int) -> socket.socket:
    """Bind now, so that a port that is taken is said before anything is started. Raises CannotStart."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, the event loop turns Nagle's delay off on every accepted connection (40 ms an answer).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OverflowError as error:
        listener.close()
        raise CannotStart(f"{port} is not a port", fix="Use a number from 1 to 65535, or 0 for a free one.") from error
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"port {port} on {host} is taken by another program",
                fix=f"Stop it, or choose another port: PORT={port + 1 if port < 65535 else 8000} make run, or --port.",
            ) from error
        raise CannotStart(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            fix="Choose another --host or --port; ports below 1024 need rights.",
        ) from error
    listener.setblocking(False)
    return listener


async def _main(plan: Plan, services: Services) -> None:
    if plan.migrate:
        await migrate(services.database_url)
    async with open_service(plan.settings, services) as service:
        stop = _stop_on_signals(service)
        async with anyio.create_task_group() as tasks:
            if plan.worker:
                tasks.start_soon(service.pipeline.work, stop)
            if plan.listener is not None:
                await serve(service, plan.listener, stop, lambda: plan.ready(plan.settings))
            else:
                plan.ready(plan.settings)
                await stop.wait()
            # The worker hands its jobs back by itself when `stop` is set; the deadline is for one that hangs.
            tasks.cancel_scope.deadline = anyio.current_time() + GRACE_SECONDS


async def serve(service: Service, listener: socket.socket, stop: anyio.Event, ready: Callable[[], None]) -> None:
    """Answer on ``listener`` until ``stop``; then let the answers under way end, a second at most."""
    server = uvicorn.Server(
        uvicorn.Config(
            service.app,
            http="httptools",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            backlog=2048,
        )
    )
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]  # signals set `stop`

    async def announce_and_watch() -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        ready()
        await stop.wait()
        service.begin_closing()
        server.should_exit = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(announce_and_watch)
        await server.serve(sockets=[listener])
        stop.set()


def _stop_on_signals(service: Service) -> anyio.Event:
    stop = anyio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
