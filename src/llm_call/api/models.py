"""GET /v1/models: the configured models, in OpenAI's list shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from llm_call.api.catalog import LONGEST, Catalog, Route
from serving.asgi import notes
from serving.errors import ApiError

CREATED = int(time.time())
"""OpenAI's list gives each model a time; ours is that of the service's start."""


def routes(catalog: Callable[[], Catalog]) -> list[Path]:
    """Return the routes of the list and of one model. A wildcard is listed as it is written, such as `openai/*`."""

    async def every(request: Request) -> Response:
        document = {"object": "list", "data": [_entry(route) for route in _allowed(request, catalog())]}
        return Response(orjson.dumps(document), media_type="application/json")

    async def one(request: Request) -> Response:
        name = request.path_params["name"]
        for route in _allowed(request, catalog()):
            if route.name == name:
                return Response(orjson.dumps(_entry(route)), media_type="application/json")
        message = f'The model "{name[:LONGEST]}" does not exist. GET /v1/models lists them all.'
        raise ApiError(404, message, code="model_not_found", param="model")

    return [Path("/v1/models", every), Path("/v1/models/{name:path}", one)]


def _allowed(request: Request, catalog: Catalog) -> Iterator[Route]:
    """Yield what the request's key may use."""
    grant = notes(request.scope).get("grant")
    return (route for route in catalog.routes.values() if not grant or grant.allows(route.name))


def _entry(route: Route) -> dict[str, Any]:
    owner = "llm-call" if route.learned else route.targets[0].upstream.name
    return {"id": route.name, "object": "model", "created": CREATED, "owned_by": owner}
