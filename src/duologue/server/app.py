"""The HTTP application: long-polling, the health check, the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from duologue.server.pages import ClientFiles, error_page, no_client


def build_app(polling: ASGIApp, client: Path, troubles: Callable[[], Sequence[str]] = tuple) -> Starlette:
    """`polling` is mounted at /socket.io; `client` is the folder of the built page, which may be missing; `troubles` names
    what the node does without for the time being, in a word each."""

    async def health(request: Request) -> Response:
        """Says only that the process answers, and how well: the public port tells strangers nothing else."""
        words = list(troubles())
        content = {"status": "degraded", "without": words} if words else {"status": "ok"}
        return JSONResponse(content, headers={"cache-control": "no-store"})

    page: ASGIApp = ClientFiles(client) if (client / "index.html").is_file() else no_client
    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Mount("/socket.io", polling),
            Mount("/", page),
        ],
        exception_handlers={HTTPException: error_page},
    )
