"""Problems: every error as RFC 9457 ``application/problem+json``: what happened, and what to do about it."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from eventstore.errors import BadRequest, FoldstreamError, NotFound, TooLarge

log = logging.getLogger(__name__)


def problem(error: FoldstreamError, request_id: str = "") -> dict[str, Any]:
    """The problem document of an error, as a JSON object."""
    document: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "fix": error.fix,
        "code": error.code,
        "retryable": error.retryable,
    }
    if error.pointer:
        document["errors"] = [{"pointer": error.pointer, "message": error.detail}]
    if request_id:
        document["requestId"] = request_id
    return document


def problem_response(error: FoldstreamError, request_id: str = "") -> Response:
    """The problem document as an answer, with Retry-After where it makes sense."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return Response(
        orjson.dumps(problem(error, request_id)),
        status_code=error.status,
        media_type="application/problem+json",
        headers=headers,
    )


def on_foldstream_error(request: Request, error: Exception) -> Response:
    """Exception handler: one of ours."""
    assert isinstance(error, FoldstreamError)
    return problem_response(error, _request_id(request))


def on_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler: what Starlette itself raises (no such route, method not allowed, body too large)."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(NotFound(f"there is no {request.url.path}"), _request_id(request))
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return problem_response(TooLarge("the body is larger than this route takes"), _request_id(request))
    found = BadRequest(error.detail or HTTPStatus(error.status_code).phrase)
    found.status = error.status_code
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        found.detail = f"{request.method} is not possible on {request.url.path}"
        found.fix = f"Use {allowed}."
    response = problem_response(found, _request_id(request))
    response.headers.update(error.headers or {})
    return response


def on_client_gone(request: Request, error: Exception) -> Response:
    """Exception handler: the client hung up before it had sent its request. Nobody reads the answer."""
    return problem_response(BadRequest("the request ended before its body did"), _request_id(request))


def on_unexpected(request: Request, error: Exception) -> Response:
    """Exception handler: a defect of ours. The traceback goes to the log, the request id to the client."""
    log.error("unexpected error on %s %s", request.method, request.url.path, exc_info=error)
    return problem_response(FoldstreamError("an unexpected error; it has been logged"), _request_id(request))


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))
