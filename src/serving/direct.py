"""Calls the endpoints that are asked most without the framework's router and middleware in between."""

from __future__ import annotations

from collections.abc import Mapping

from serving.asgi import App, Receive, Scope, Send
from serving.errors import ApiError


class Direct:
    """ASGI application: POST requests for the paths of `endpoints` go straight to them, everything else to `app`.

    An ApiError of theirs is answered here, as the framework's handlers would.
    """

    def __init__(self, app: App, endpoints: Mapping[str, App]) -> None:
        self._app = app
        self._endpoints = dict(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other ASGI events pass to `app`."""
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            await endpoint(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
