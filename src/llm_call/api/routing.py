"""GET /v1/routing shows what learned routing knows of the routes that a key may use; POST /v1/feedback rates an answer."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from llm_call.api.gateway import Gateway
from llm_call.api.learning import rated_as
from llm_call.api.request import reject
from serving import body
from serving.asgi import notes
from serving.errors import ApiError
from serving.strict_json import Names

FEEDBACK_BYTES = 4096
FEEDBACK = Names(("request_id", "rating"))


def routes(gateway: Gateway) -> list[Path]:
    """Return both routes; without learned routing they say that it is off."""

    async def show(request: Request) -> Response:
        grant = notes(request.scope).get("grant")
        allowed = {name: arms for name, arms in gateway.learned().items() if not grant or grant.allows(name)}
        report = gateway.learner.report(allowed) if gateway.learner else {"routes": {}}
        return _json({"enabled": gateway.learner is not None, **report})

    async def rate(request: Request) -> Response:
        if not gateway.learner:
            message = "Learned routing is off, so nothing is rated; ENABLE_RL_ROUTING=true switches it on."
            raise ApiError(409, message, code="routing_disabled")
        fields = (await body.document(request.scope, request.receive, FEEDBACK_BYTES, FEEDBACK)).members
        ident, rating = fields.get("request_id"), fields.get("rating")
        if not isinstance(ident, str) or not ident:
            reject("request_id", "is what the answer's header x-request-id said")
        if isinstance(rating, bool) or not isinstance(rating, int | float) or not 0 <= rating <= 1:
            reject("rating", "is a number from 0 (useless) to 1 (perfect)")
        if not await gateway.learner.rate(rated_as(notes(request.scope).get("grant"), ident), float(rating)):
            message = "No such request is remembered: only answers chosen by routing are, and for a day."
            raise ApiError(404, message, code="request_not_found", param="request_id")
        return _json({"object": "feedback", "request_id": ident, "rating": rating})

    return [Path("/v1/routing", show), Path("/v1/feedback", rate, methods=["POST"])]


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
