"""The web client's files: hashed ones kept for ever, the rest revalidated, precompressed where the build left that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

_FOR_EVER: Final = "public, max-age=31536000, immutable"
_REVALIDATE: Final = "no-cache"
_PRECOMPRESSED: Final = (("br", ".br"), ("gzip", ".gz"))

_NO_CLIENT: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Duologue</title>
<h1>The web client was not built</h1>
<p>This Duologue server works and Socket.IO clients can use it, but it was installed without its page.
<p>From a clone of the sources, <code>make run</code> builds the page and starts the server.
"""


class ClientFiles(StaticFiles):
    """Starlette's static files, with the right variant and caching. A path that is no file gets the page itself, so
    that an address inside the client can be reloaded."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=False)
        self._folder = folder

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            response = await self._variant(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or Path(path).suffix:
                raise
            path = "index.html"
            response = await self._variant(path, scope)
        response.headers.update(SECURITY_HEADERS)
        response.headers["cache-control"] = _FOR_EVER if path.startswith("assets/") else _REVALIDATE
        return response

    async def _variant(self, path: str, scope: Scope) -> Response:
        if path in ("", "."):
            path = "index.html"
        accepted = Headers(scope=scope).get("accept-encoding", "")
        for coding, suffix in _PRECOMPRESSED:
            if coding in accepted and self._has(path + suffix):
                response = await super().get_response(path + suffix, scope)
                response.headers["content-encoding"] = coding
                response.headers["content-type"] = _media_type(path)
                break
        else:
            response = await super().get_response(path, scope)
        response.headers.add_vary_header("accept-encoding")
        return response

    def _has(self, path: str) -> bool:
        try:
            full_path, stat = self.lookup_path(path)
        except (OSError, ValueError):  # too long, or with a NUL: a name that no file can have
            return False
        return stat is not None and os.path.isfile(full_path)


def _media_type(path: str) -> str:
    """Of the files a build consists of. The system's own table differs from machine to machine."""
    return {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".json": "application/json",
        ".webmanifest": "application/manifest+json",
    }.get(Path(path).suffix, "application/octet-stream")


async def error_page(request: Request, error: Exception) -> Response:
    """An `HTTPException` as a line of text: what a browser shows of it is guarded as the page is."""
    assert isinstance(error, HTTPException)
    headers = {**(error.headers or {}), **SECURITY_HEADERS, "cache-control": "no-store"}
    return PlainTextResponse(error.detail, status_code=error.status_code, headers=headers)


async def no_client(scope: Scope, receive: Receive, send: Send) -> None:
    """The page of a server that was installed without its client."""
    response = HTMLResponse(_NO_CLIENT, status_code=404, headers={**SECURITY_HEADERS, "cache-control": "no-store"})
    await response(scope, receive, send)
