"""Guard: who may read and write what. The only place where tokens meet requests.

With ``AUTH=off`` (development) everybody may; with ``AUTH=on`` a token made for the run, or for all runs, is needed.
It is taken from `Authorization: Bearer`, from `?token=` where a browser can set no header, or from a Socket.IO
message.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from starlette.requests import HTTPConnection

from eventstore.errors import Forbidden
from eventstore.event import StreamId
from streaming.token import Signer

READ = "read"
WRITE = "write"
MAX_TOKEN = 4096


class Guard:
    """signer None: everybody may."""

    def __init__(self, signer: Signer | None, now: Callable[[], datetime]) -> None:
        self._signer = signer
        self._now = now

    def allow(self, token: str | None, scope: str, stream: StreamId | None = None) -> None:
        """Raises Forbidden unless ``token`` gives ``scope`` on ``stream`` (None: on all of them)."""
        if self._signer is None:
            return
        if not token:
            raise Forbidden("this needs a token")
        if len(token) > MAX_TOKEN:
            raise Forbidden("the token cannot be read")
        self._signer.verify(token, str(stream) if stream else "*", scope, self._now())

    def allow_request(self, request: HTTPConnection, scope: str, stream: StreamId | None = None) -> None:
        """The same, with the token that the request brings."""
        self.allow(token_of(request), scope, stream)


def token_of(request: HTTPConnection) -> str | None:
    """The bearer token of a request: header first, then the query."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.query_params.get("token")
