"""Category: a kind of stream: its vocabulary, its fold, and how its state looks from outside.

Pure. A new category is one file in `categories/` and its name in the tuple `categories.ALL`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from eventstore.event import Data
from eventstore.fold import At, Fold

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Category(Generic[S]):
    """name      the part before the dash of a stream's name.
    fold      events -> state.
    aliases   other names for event types, accepted at append and stored under the canonical name.
    check     (type, data) -> the data to store: fills in what every reader may rely on; raises Invalid. Unknown types
              pass unchanged, so that new producers need no new server.
    is_final  True for a state after which nothing more is expected: live feeds end there.
    view      (id, at) -> the public JSON object of the state.
    """

    name: str
    fold: Fold[S]
    aliases: Mapping[str, str]
    check: Callable[[str, Data], Data]
    is_final: Callable[[S], bool]
    view: Callable[[str, At[S]], dict[str, Any]]
    schema: int = 1
