"""The error tree: every class says what happened, what to do, and keeps its status and code."""

from __future__ import annotations

import re

import pytest

from eventstore import errors
from eventstore.errors import Conflict, FoldstreamError, Unavailable, tree

pytestmark = pytest.mark.pure


def test_the_tree_holds_every_class_of_the_module() -> None:
    defined = {
        thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, FoldstreamError)
    }
    assert set(tree()) == defined


@pytest.mark.parametrize("error", tree(), ids=lambda error: error.__name__)
def test_each_error_has_a_title_a_code_a_status_and_a_fix(error: type[FoldstreamError]) -> None:
    assert re.fullmatch(r"[A-Za-z].*\.", (error.__doc__ or "").splitlines()[0])
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)
    assert 400 <= error.status < 600
    assert error.fix


def test_codes_are_unique() -> None:
    codes = [error.code for error in tree()]
    assert len(codes) == len(set(codes))


def test_what_may_be_retried_is_not_the_callers_fault() -> None:
    assert {error.__name__ for error in tree() if error.retryable} == {"TooMany", "Unavailable", "Unreachable"}


def test_a_conflict_names_both_versions() -> None:
    error = Conflict("build-27", expected=3, actual=5)
    assert (error.expected, error.actual) == (3, 5)
    assert str(error) == "build-27 is at version 5, not at 3 as the append expected"


def test_without_a_detail_the_title_speaks() -> None:
    assert Unavailable().detail == "The store does not answer"
    assert Unavailable().retry_after == 2.0
