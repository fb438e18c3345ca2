"""The HTTP application: long-polling, the health check, the page."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from duologue.server.pages import ClientFiles, error_page, no_client


def build_app(polling: ASGIApp, client: Path) -> Starlette:
    """`polling` is mounted at /socket.io; `client` is the folder of the built page, which may be missing."""
    page: ASGIApp = ClientFiles(client) if (client / "index.html").is_file() else no_client
    return Starlette(
        routes=[
            Route("/health", _health, methods=["GET"]),
            Mount("/socket.io", polling),
            Mount("/", page),
        ],
        exception_handlers={HTTPException: error_page},
    )


async def _health(request: Request) -> Response:
    """Says only that the process answers: the public port tells strangers nothing else."""
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})
