"""migrate(): brings a database to what this release needs: the log's own tables, then the queue's."""

from __future__ import annotations

from eventstore.migrate import migrate as migrate_log
from pipeline.queue import install


async def migrate(dsn: str) -> list[str]:
    """Apply what is missing and return the names of what was applied (empty: nothing to do). Raises CannotStart."""
    applied = await migrate_log(dsn)
    await install(dsn)
    return applied
