"""The error tree. A class's docstring is its message; each carries an HTTP status, a stable code and whether to retry.

One handler (`streaming.problem`) renders any of them as RFC 9457 ``application/problem+json``; the CLI prints the
message and the fix as two lines. Messages name the cause; ``fix`` says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class FoldstreamError(Exception):
    """Something went wrong inside foldstream."""

    status = 500
    code = "internal"
    retryable = False
    fix = "Look at the server's log for the request id of this answer."

    def __init__(self, detail: str = "", *, fix: str = "", pointer: str = "", retry_after: float | None = None) -> None:
        self.detail = detail or self.title
        self.fix = fix or type(self).fix
        self.pointer = pointer
        self.retry_after = retry_after
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        """The class's own sentence, without its full stop: the same for every instance."""
        return (type(self).__doc__ or "").strip().splitlines()[0].rstrip(".")


class Invalid(FoldstreamError):
    """The input is not valid."""

    status = 422
    code = "invalid"
    fix = "Correct the field that `errors` names and send it again."


class BadRequest(FoldstreamError):
    """The request cannot be read."""

    status = 400
    code = "bad-request"
    fix = "Send what docs/protocol.md describes for this route."


class Forbidden(FoldstreamError):
    """You have no right to do this."""

    status = 403
    code = "forbidden"
    fix = "Send a token made for this run: `Authorization: Bearer ...`, or `?token=...` where headers cannot be set."


class NotFound(FoldstreamError):
    """There is nothing at this address."""

    status = 404
    code = "not-found"
    fix = "Check the path; docs/protocol.md lists every route."


class Gone(FoldstreamError):
    """That part of the log has left it."""

    status = 410
    code = "gone"
    fix = "Ask for a later version; exports hold what was there before."


class TooLarge(FoldstreamError):
    """The input is too large."""

    status = 413
    code = "too-large"
    fix = "Send less at once; put big outputs into an artefact and its link into the event."


class TooMany(FoldstreamError):
    """Too many requests."""

    status = 429
    code = "too-many"
    retryable = True
    fix = "Wait for the time in Retry-After, then try again."


class Conflict(FoldstreamError):
    """The stream is not at the version you expected."""

    status = 409
    code = "conflict"
    fix = "Read the stream again, decide again, append again."

    def __init__(self, stream: object, expected: int, actual: int) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(f"{stream} is at version {actual}, not at {expected} as the append expected")


class Sealed(FoldstreamError):
    """The stream is sealed: nothing more is recorded in it."""

    status = 409
    code = "sealed"
    fix = "Append to a new stream."


class KeyReused(FoldstreamError):
    """The key was used before for another event."""

    status = 422
    code = "key-reused"
    fix = "Use a new key for a new event; repeat the same event under the same key."


class Unavailable(FoldstreamError):
    """The store does not answer."""

    status = 503
    code = "store-unavailable"
    retryable = True
    fix = "Try again in a moment (over HTTP, Retry-After says when). If it lasts, check that Postgres runs."

    def __init__(self, detail: str = "", *, fix: str = "", retry_after: float = 2.0) -> None:
        super().__init__(detail, fix=fix, retry_after=retry_after)


class Unreachable(FoldstreamError):
    """The server cannot be reached."""

    status = 503
    code = "unreachable"
    retryable = True
    fix = "Start it with `foldstream dev`, or set FOLDSTREAM_URL to the server's address."


class StepFailed(FoldstreamError):
    """A step of a build failed."""

    code = "step-failed"
    fix = "Read the error, change the prompt or the files, and start the build again."

    def __init__(self, detail: str = "", *, code: str = "", fix: str = "", retryable: bool = False) -> None:
        super().__init__(detail, fix=fix)
        self.code = code or type(self).code
        self.retryable = retryable


class CannotStart(FoldstreamError):
    """foldstream cannot start."""

    code = "cannot-start"


def tree() -> Sequence[type[FoldstreamError]]:
    """Every error class there is, the root first: what the documentation and the table tests walk over."""
    found: list[type[FoldstreamError]] = [FoldstreamError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found
