"""GET /openapi.json: the document that describes a service's wire, a file beside its code."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATH = "/openapi.json"


def route(document: Path) -> Route:
    """Return the route of a document that is read once, now; no key is needed for it. Raises OSError."""
    body = document.read_bytes()

    async def show(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Route(PATH, show)
