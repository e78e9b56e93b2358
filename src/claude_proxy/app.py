"""The application: routes, health and keys put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_proxy import models, settings
from claude_proxy.calls import Calls
from claude_proxy.chat import Chat
from claude_proxy.cli import Cli
from serving.asgi import App
from serving.auth import Guard, Keyring
from serving.errors import handlers
from serving.health import Health
from serving.logs import RequestLog
from serving.settings import Env


def create(health: Health) -> App:
    """Return the ASGI application; raises SettingsError."""
    chosen = settings.read(Env())
    keys = Keyring.for_host(chosen.keys_file, health.host, setting="CLAUDE_PROXY_KEYS_FILE")
    cli = Cli(chosen)
    calls = Calls(chosen, cli)
    health.add("claude-cli", cli.working, required=True)
    health.add("claude-credential", cli.logged_in, required=False)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await calls.start()
        try:
            yield
        finally:
            await calls.close()

    routes = [
        Route("/v1/chat/completions", Chat(calls, chosen.max_body), methods=["POST"]),
        Route("/v1/models", _models),
        *health.routes(),
    ]
    return RequestLog(Guard(Starlette(routes=routes, exception_handlers=handlers(), lifespan=lifespan), keys))


async def _models(_request: Request) -> Response:
    return Response(orjson.dumps(models.listing()), media_type="application/json")
