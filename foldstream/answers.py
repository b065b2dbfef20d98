"""answers: what a server's answer means when it is not the one that was asked for: a problem document, or a stranger's.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
import orjson

from eventstore.errors import FoldstreamError, tree

LONGEST_WAIT = 60.0
"""Seconds: a Retry-After beyond this is cut to it."""

BY_CODE: Mapping[str, type[FoldstreamError]] = {kind.code: kind for kind in reversed(tree())}


def error_of(response: httpx2.Response) -> FoldstreamError:
    """The error that an answer tells of: the server's own, rebuilt from its problem document, where there is one."""
    try:
        document = orjson.loads(response.content)
        kind = BY_CODE.get(document["code"], FoldstreamError)
        # Some classes are made from other arguments than what a document holds; all are told by these.
        error = kind.__new__(kind)
        FoldstreamError.__init__(error, str(document["detail"]), fix=str(document["fix"]))
        error.code, error.retryable = str(document["code"]), bool(document["retryable"])
        error.pointer = str(document["errors"][0]["pointer"]) if document.get("errors") else ""
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        error = foreign(response)
    error.status = response.status_code
    error.retry_after = _retry_after(response)
    return error


def foreign(response: httpx2.Response) -> FoldstreamError:
    """An answer that is not ours: a proxy's, or another program's."""
    kind = response.headers.get("content-type", "").partition(";")[0] or "nothing"
    error = FoldstreamError(
        f"{response.url.copy_with(query=None)} answered {response.status_code} with {kind}, not as foldstream does",
        fix="Check that FOLDSTREAM_URL is the server's address; a proxy before it may have its reasons in its log.",
    )
    if response.has_redirect_location:
        error.fix = f"Set FOLDSTREAM_URL to where it points: {response.headers['location']}"
    error.status = response.status_code
    error.retryable = response.status_code == 429 or response.status_code >= 500
    return error


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds; the form with a date is left to our own backoff."""
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_WAIT) if text.isascii() and text.isdigit() else None
