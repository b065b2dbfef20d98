"""eventstore: the log and its meaning.

    append a fact  ->  a stream (`build-27`) gets its next version: 1, 2, 3, ...
    fold facts     ->  a state (`At(state, version)`); there is no status column anywhere
    read a stream  ->  every event after a version, in order, for ever the same

The rooms: `event` `fold` `category` `categories/` `admit` `shape` `page` `errors` are pure. `store` is the contract of
the log, `stores/` are its implementations (postgres, memory). This package imports neither `streaming` nor `pipeline`.
"""

from eventstore.categories import ALL, BY_NAME
from eventstore.category import Category
from eventstore.event import START, Event, NewEvent, Position, StreamId
from eventstore.fold import At, Fold
from eventstore.store import Announce, Index, Listed, Store, replay

__all__ = [
    "ALL",
    "BY_NAME",
    "START",
    "Announce",
    "At",
    "Category",
    "Event",
    "Fold",
    "Index",
    "Listed",
    "NewEvent",
    "Position",
    "Store",
    "StreamId",
    "replay",
]
