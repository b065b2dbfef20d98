"""plain_server: serves the applications that we compare with, by the same server and settings as foldstream's own."""

from __future__ import annotations

import json
import socket
from typing import Any

import uvicorn
import uvloop

from foldstream.serve import listen


class Announcing(uvicorn.Server):
    """Prints its address when the first request would be answered."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or []:
            print(json.dumps({"url": f"http://127.0.0.1:{one.getsockname()[1]}"}), flush=True)


def serve(app: Any) -> None:
    """Serve on a free port of the loopback until SIGTERM."""
    config: dict[str, Any] = {"http": "httptools", "ws": "websockets-sansio", "ws_per_message_deflate": False}
    server = Announcing(
        uvicorn.Config(app, **config, access_log=False, log_config=None, timeout_graceful_shutdown=1, backlog=2048)
    )
    uvloop.run(server.serve(sockets=[listen("127.0.0.1", 0)]))
