"""Edge: what every request passes first: its id, its host, its origin, and the headers every answer carries.

Browsers let any page send a POST or open a WebSocket to a server on the reader's own machine or network, with `Origin`
telling which page it was. So a request that could change something, or that opens a socket, is refused if it names a
foreign origin; and on a loopback address only loopback names are served, so that no foreign name can be pointed at us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventstore.errors import BadRequest, FoldstreamError, Forbidden, TooLarge
from eventstore.event import KEY, TRACEPARENT
from streaming.metrics import Metrics
from streaming.problem import problem_response

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Edge:
    """ASGI middleware. hosts: names that are served (empty: any). origins: web origins besides the server's own."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        new_id: Callable[[], str],
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        body_bytes: int,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._new_id = new_id
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request_id = sent if KEY.fullmatch(sent) else self._new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["sent_request_id"] = sent if sent == request_id else None
        trace = headers.get("traceparent", "")
        state["traceparent"] = trace if TRACEPARENT.fullmatch(trace) else None  # W3C: an invalid one is as good as none
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = request_id
                answer["X-Content-Type-Options"] = "nosniff"
                answer.setdefault("Referrer-Policy", "no-referrer")
                answer.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
                if not answer.get("content-type", "").startswith("text/event-stream"):
                    self._metrics.request_seconds.labels(scope["method"], message["status"]).observe(
                        time.perf_counter() - started
                    )
            await send(message)

        error = self._refusal(scope, headers)
        if error is None:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            await problem_response(error, request_id)(scope, receive, send_with_headers)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": error.detail})

    def _refusal(self, scope: Scope, headers: Headers) -> FoldstreamError | None:
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            refused = BadRequest(f"this server does not answer to the name {_name(host)[:100]!r}")
            refused.status = HTTPStatus.MISDIRECTED_REQUEST
            refused.fix = "Use http://127.0.0.1 or localhost, or serve on another address with `foldstream serve`."
            return refused
        told = headers.get("content-length", "")
        if told.isdigit() and int(told) > self._body_bytes:
            return TooLarge(f"the body has {int(told):,} bytes; the most is {self._body_bytes:,}")
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if changes and origin and origin not in self._origins and origin.partition("://")[2] != host:
            return Forbidden(
                f"pages of {origin[:100]} may not use this server",
                fix="Add the page's origin to MAIN_APP_URL or WEBSOCKET_CORS_ORIGIN.",
            )
        return None


def _name(host: str) -> str:
    """The host without its port: example.com:80 -> example.com, [::1]:80 -> [::1]."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.rpartition(":")[0] or host
