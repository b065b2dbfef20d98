"""An append that the database refuses only at its commit (a deferred check of somebody's own) was not recorded."""

from __future__ import annotations

import psycopg
import pytest

from eventstore import Event, NewEvent, StreamId
from eventstore.errors import Invalid
from eventstore.stores.postgres import PostgresStore

STREAM = StreamId("build", "27")
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.type = 'bad' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON events_1 DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.fixture
async def announced(database: str) -> list[Event]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as sql:
        await sql.execute(REFUSE.encode())
    return []


@pytest.mark.parametrize("events", [[NewEvent("bad")], [NewEvent("good"), NewEvent("bad")]], ids=["one", "many"])
async def test_it_is_neither_acknowledged_nor_announced(
    database: str, announced: list[Event], events: list[NewEvent]
) -> None:
    async with PostgresStore(database, announce=announced.extend) as store:
        first = await store.append(STREAM, [NewEvent("good")])
        with pytest.raises(Invalid, match="the database refused the data: not this one"):
            await store.append(STREAM, events)
        second = await store.append(STREAM, [NewEvent("good")])
        assert announced == await store.read(STREAM) == first + second
        assert [event.version for event in announced] == [1, 2]
