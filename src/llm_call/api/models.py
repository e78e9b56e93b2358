"""GET /v1/models: the configured models, in OpenAI's list shape."""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llm_call.api.catalog import LONGEST, Catalog, Model
from serving.errors import ApiError


def routes(catalog: Catalog) -> list[Route]:
    """Return the routes of the list and of one model. A wildcard is listed as it is written, such as `openai/*`."""
    created = int(time.time())
    entries = {name: _entry(model, created) for name, model in catalog.models.items()}
    whole = orjson.dumps({"object": "list", "data": list(entries.values())})

    async def every(_request: Request) -> Response:
        return Response(whole, media_type="application/json")

    async def one(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in entries:
            message = f'The model "{name[:LONGEST]}" does not exist. GET /v1/models lists them all.'
            raise ApiError(404, message, code="model_not_found", param="model")
        return Response(orjson.dumps(entries[name]), media_type="application/json")

    return [Route("/v1/models", every), Route("/v1/models/{name:path}", one)]


def _entry(model: Model, created: int) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": created, "owned_by": model.upstream.name}
