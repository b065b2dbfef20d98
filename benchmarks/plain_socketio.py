"""plain_socketio: Socket.IO as it is usually written: a room for each build, `emit(room=)` for each event.

It keeps no log, so it can replay nothing, and it cannot tell a client what that has missed.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from benchmarks.plain_server import serve

sio = socketio.AsyncServer(async_mode="asgi")
numbers = itertools.count(1)


@sio.event  # type: ignore[untyped-decorator]
async def subscribe(sid: str, message: dict[str, Any]) -> dict[str, Any]:
    await sio.enter_room(sid, f"build:{message['buildId']}")
    return {"ok": True}


async def post(request: Request) -> Response:
    build = request.path_params["id"]
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"id": next(numbers), **await request.json(), "timestamp": at, "buildId": build, "requestId": build}
    await sio.emit("update", event, room=f"build:{build}")
    return JSONResponse(event, 201)


if __name__ == "__main__":
    routes = [
        Route("/api/builds/{id}/events", post, methods=["POST"]),
        Mount("/socket.io", socketio.ASGIApp(sio, socketio_path="")),
    ]
    serve(Starlette(routes=routes))
