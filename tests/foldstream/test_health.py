"""health: what answers in time, and what does not, asked side by side."""

from __future__ import annotations

import anyio
import pytest

from eventstore.errors import Unavailable
from foldstream.health import look


async def well() -> bool:
    return True


async def ill() -> bool:
    return False


async def away() -> bool:
    raise Unavailable("it does not answer")


async def frozen() -> bool:
    await anyio.sleep_forever()
    return True


async def test_one_that_hangs_hides_nothing_of_the_others() -> None:
    with anyio.fail_after(5):
        found = await look({"a": frozen, "b": well, "c": ill, "d": away, "e": frozen}, patience=0.05)
    assert found == {"a": False, "b": True, "c": False, "d": False, "e": False}


async def test_a_bug_in_a_check_is_not_hidden() -> None:
    async def broken() -> bool:
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup):
        await look({"a": broken})
