"""plain_sse: SSE as it is usually written: sse-starlette, a queue for each connection, JSON for each client.

It keeps no log, so it can replay nothing, and it cannot tell a client what that has missed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.plain_server import serve

queues: dict[str, set[asyncio.Queue[dict[str, Any]]]] = defaultdict(set)
numbers = itertools.count(1)


async def post(request: Request) -> Response:
    build = request.path_params["id"]
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"id": next(numbers), **await request.json(), "timestamp": at, "buildId": build, "requestId": build}
    for queue in queues[build]:
        queue.put_nowait(event)
    return JSONResponse(event, 201)


async def events(request: Request) -> Response:
    return EventSourceResponse(frames(request.path_params["id"]))


async def frames(build: str) -> AsyncIterator[dict[str, str]]:
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    queues[build].add(queue)
    try:
        yield {"event": "connected", "data": "{}"}
        while True:
            event = await queue.get()
            yield {"id": str(event["id"]), "data": json.dumps(event)}
    finally:
        queues[build].discard(queue)


if __name__ == "__main__":
    routes = [Route("/events/{id}", events), Route("/api/builds/{id}/events", post, methods=["POST"])]
    serve(Starlette(routes=routes))
