"""create_app(): the web application: every transport, health, metrics, the page, one error renderer, one edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from eventstore.errors import FoldstreamError
from streaming.edge import Edge
from streaming.live import Live
from streaming.metrics import CONTENT_TYPE
from streaming.problem import on_client_gone, on_foldstream_error, on_http_exception, on_unexpected
from streaming.transports import TRANSPORTS

UI = Path(__file__).parent / "ui"
UI_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Checks = Callable[[], Awaitable[dict[str, bool]]]
"""Asks each thing the server stands on whether it answers, by name. `postgres` decides over the answer's status."""


def create_app(
    live: Live,
    *,
    checks: Checks,
    new_id: Callable[[], str],
    more_routes: Sequence[BaseRoute] = (),
    hosts: Collection[str] = (),
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """more_routes: the commands of other rooms. hosts: see `streaming.edge`. lifespan: what runs beside the server."""
    routes: list[BaseRoute] = [
        Route("/", lambda request: RedirectResponse("/ui/")),
        Route("/health", _health(checks)),
        Route("/metrics", _metrics(live)),
        Mount("/ui", Page(directory=UI, html=True)),
        *more_routes,
    ]
    for transport in TRANSPORTS:
        routes.extend(transport.routes(live))
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(
                Edge,
                metrics=live.metrics,
                new_id=new_id,
                hosts=hosts,
                origins=live.origins,
                body_bytes=live.limits.body_bytes,
            ),
            Middleware(RequestBodyLimitMiddleware, max_body_size=live.limits.body_bytes),
        ],
        exception_handlers={
            FoldstreamError: on_foldstream_error,
            HTTPException: on_http_exception,
            ClientDisconnect: on_client_gone,
            Exception: on_unexpected,
        },
        lifespan=lifespan,
    )


class Page(StaticFiles):
    """The page's files, with a policy that lets nothing in from outside, and the run's address served by one file."""

    async def get_response(self, path: str, scope: dict[str, object]) -> Response:  # type: ignore[override]
        if path.startswith("runs/"):
            path = "index.html"
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = UI_POLICY
        response.headers["Cache-Control"] = "no-cache"
        return response


def _health(checks: Checks) -> Callable[[Request], Awaitable[Response]]:
    async def health(request: Request) -> Response:
        found = await checks()
        healthy = found.get("postgres", False)
        status = "ok" if all(found.values()) else "degraded" if healthy else "down"
        answer = {"status": status, **{name: "ok" if up else "down" for name, up in found.items()}}
        return Response(
            orjson.dumps(answer),
            200 if healthy else 503,
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    return health


def _metrics(live: Live) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(request: Request) -> Response:
        return Response(live.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return metrics
