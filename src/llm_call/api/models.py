"""GET /v1/models: the configured models, in OpenAI's list shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from llm_call.api.catalog import LONGEST, Catalog, Route, UnknownModel
from serving.asgi import notes
from serving.errors import ApiError

CREATED = int(time.time())
"""OpenAI's list gives each model a time; ours is that of the service's start."""


def routes(catalog: Callable[[], Catalog]) -> list[Path]:
    """Return the routes of the list and of one model. A wildcard is listed as it is written, such as `openai/*`."""

    async def every(request: Request) -> Response:
        document = {"object": "list", "data": [_entry(name, route) for name, route in _allowed(request, catalog())]}
        return Response(orjson.dumps(document), media_type="application/json")

    async def one(request: Request) -> Response:
        name = request.path_params["name"]
        found = _find(catalog(), name)
        grant = notes(request.scope).get("grant")
        if not found or (grant and not grant.allows(name)):
            message = f'The model "{name[:LONGEST]}" does not exist. GET /v1/models lists them all.'
            raise ApiError(404, message, code="model_not_found", param="model")
        return Response(orjson.dumps(_entry(name, found)), media_type="application/json")

    return [Path("/v1/models", every), Path("/v1/models/{name:path}", one)]


def _allowed(request: Request, catalog: Catalog) -> Iterator[tuple[str, Route]]:
    """Yield what the request's key may use: routes, and models of its own list that a wildcard answers for."""
    grant = notes(request.scope).get("grant")
    for name, route in catalog.routes.items():
        if not grant or grant.allows(name):
            yield name, route
    for name in (grant and grant.models) or ():
        found = None if name.endswith("*") or name in catalog.routes else _find(catalog, name)
        if found:
            yield name, found


def _find(catalog: Catalog, name: str) -> Route | None:
    if name in catalog.routes:
        return catalog.routes[name]
    try:
        return catalog.find(name)
    except UnknownModel:
        return None


def _entry(name: str, route: Route) -> dict[str, Any]:
    # A local model is an upstream of its own, below that of the file: local/tiny is local's.
    owner = "llm-call" if route.learned else route.targets[0].upstream.name.partition("/")[0]
    return {"id": name, "object": "model", "created": CREATED, "owned_by": owner}
