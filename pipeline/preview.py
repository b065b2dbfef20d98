"""GET /preview/{build}/...: serves what `deployers.local` published, in a box.

A preview is a program written by a stranger, and it is served by the same server as the dashboard. So its policy puts
every page into a sandbox with an origin of its own: it runs scripts, but it sees no cookie, no storage and no answer of
this server, and it asks no other server for anything. Whoever knows the address may open it: pages cannot send tokens
for their own style sheets.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path, PurePosixPath

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from eventstore.errors import Invalid, NotFound
from eventstore.event import StreamId
from pipeline.deployers.local import CURRENT, previews
from pipeline.workspace import read_below

POLICY = (
    "sandbox allow-scripts allow-forms allow-modals allow-popups; default-src 'self' 'unsafe-inline' data: blob:; "
    "form-action 'none'; base-uri 'none'; object-src 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".wasm": "application/wasm",
}
DEPLOYMENT = re.compile(r"[0-9a-f]{16}")


def routes(data_dir: Path) -> list[BaseRoute]:
    """The previews below ``data_dir``."""

    async def serve(request: Request) -> Response:
        path: str = request.path_params["path"]
        if path == "" or path.endswith("/"):
            path += "index.html"
        deployment, content = await asyncio.to_thread(_read, data_dir, request.path_params["build"], path)
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            # The pages have an origin of their own, so even their own files come, for them, from somewhere else.
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Cache-Control": "no-cache",
            "ETag": f'"{deployment}"',
        }
        if deployment in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        suffix = PurePosixPath(path).suffix.lower()
        return Response(content, media_type=TYPES.get(suffix, "application/octet-stream"), headers=headers)

    async def add_slash(request: Request) -> Response:
        return RedirectResponse(f"{request.url.path}/", status_code=308)  # or ./style.css would mean another file

    return [Route("/preview/{build}", add_slash), Route("/preview/{build}/{path:path}", serve)]


def _read(data_dir: Path, build: str, path: str) -> tuple[str, bytes]:
    """(deployment, content). Raises NotFound for whatever is not a published file, TooLarge."""
    try:
        home = previews(data_dir, StreamId("build", build).id)
        deployment = os.readlink(home / CURRENT)
        if not DEPLOYMENT.fullmatch(deployment):
            raise NotFound(f"the preview of {build} is damaged")
        return deployment, read_below(home / deployment, path)
    except (Invalid, OSError) as error:
        raise NotFound(f"there is no preview of {build[:40]} with a file {path[:80]!r}") from error
