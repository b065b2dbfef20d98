"""health: what the service needs, asked side by side. What does not answer in time counts as down: whoever asks must
hear before his own patience ends, above all when a database has frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio

from eventstore.errors import FoldstreamError

PATIENCE = 2.0

Check = Callable[[], Awaitable[bool]]


async def look(checks: Mapping[str, Check], *, patience: float = PATIENCE) -> dict[str, bool]:
    """Which of them are well. Takes ``patience`` seconds at most."""
    found = dict.fromkeys(checks, False)

    async def ask(name: str) -> None:
        with anyio.move_on_after(patience):
            try:
                found[name] = await checks[name]()
            except FoldstreamError:
                found[name] = False

    async with anyio.create_task_group() as tasks:
        for name in checks:
            tasks.start_soon(ask, name)
    return found
