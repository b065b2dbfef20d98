"""The contract of `Keeper.seal`, over every store."""

from __future__ import annotations

import pytest

from eventstore import NewEvent, StreamId
from eventstore.errors import Sealed
from tests.contract.conftest import Case

BUILD = StreamId("build", "27")


@pytest.mark.req("K-04")
async def test_a_sealed_stream_refuses_appends_and_is_read_as_ever(case: Case) -> None:
    recorded = await case.store.append(BUILD, [NewEvent("a"), NewEvent("b", key="k")])
    assert await case.store.seal(BUILD) == 2
    assert await case.store.seal(BUILD) == 2
    for refused in ([NewEvent("c")], [NewEvent("b", key="k"), NewEvent("c")]):
        with pytest.raises(Sealed, match="build-27 is sealed at version 2"):
            await case.other.append(BUILD, refused)
    assert await case.other.append(BUILD, [NewEvent("b", key="k")]) == recorded[1:], "a repetition gets its answer"
    assert await case.store.read(BUILD) == recorded


async def test_what_does_not_exist_cannot_be_sealed(case: Case) -> None:
    assert await case.store.seal(BUILD) == 0
    assert (await case.store.append(BUILD, [NewEvent("a")]))[0].version == 1
