"""Frozen: a state as one JSON object and back, so that a snapshot can lie in a `jsonb` column.

Pure. `jsonb` keeps meaning, not text: it orders keys and writes numbers its own way. Of 4.114603800225527e16 it makes
41146038002255270, which read again is an integer, and not the one that the float was. It does keep the point of a
number that has one; so numbers with an exponent are written out here, and floats stay floats. What is read comes from
the same parser that reads events, and is then given its types. So a thawed state equals the frozen one, and whatever
folds on from it equals the fold from nothing.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TypeVar

import msgspec
import orjson

from eventstore.category import Category
from eventstore.fold import At

S = TypeVar("S")

EXPONENT = re.compile(rb"[0-9][eE][-+0-9]")
TEXT_OR_EXPONENT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9.]+[eE][-+]?[0-9]+')


def freeze(category: Category[S], at: At[S]) -> bytes:
    """The state of ``at`` as a JSON object; its version and ``category.version`` belong beside it.

    Raises ValueError for a state nested too deeply to be written (only SQL can put such data into the log): leave that
    stream without a snapshot, it is folded from its events then.
    """
    try:
        json = msgspec.json.encode(at.state)
    except RecursionError as error:
        raise ValueError(f"a state of {category.name} is nested too deeply to be stored") from error
    return TEXT_OR_EXPONENT.sub(_written_out, json) if EXPONENT.search(json) else json


def _written_out(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if token.startswith(b'"'):  # an exponent inside a text is none
        return token
    plain = format(Decimal(token.decode()), "f")
    return (plain if "." in plain else f"{plain}.0").encode()


def thaw(category: Category[S], data: bytes | str, *, lenient: bool = False) -> S:
    """The state that was frozen. Raises ValueError for anything but a state of just this shape: fold from nothing.

    Fields that are missing or too many refuse the snapshot, they are never filled in: a default would be a guess. (That
    holds for the state itself; for what is inside its lists ``category.version`` answers.) But where the events are
    gone a guess is better than nothing: ``lenient`` takes what an older release stored, as far as it goes.
    """
    try:
        found = orjson.loads(data)
        names: tuple[str, ...] = getattr(category.state, "__struct_fields__", ())
        if not isinstance(found, dict) or (found.keys() != set(names) and not lenient):
            raise ValueError("other fields")
        return msgspec.convert(found, category.state)
    except (ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise ValueError(f"this is not a stored state of {category.name}: {error}") from error
