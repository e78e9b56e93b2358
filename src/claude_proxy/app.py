"""The application: routes, health, keys and metrics put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_proxy import grants, kernel, models, settings
from claude_proxy.calls import Calls
from claude_proxy.chat import Chat
from claude_proxy.cli import Cli
from claude_proxy.gate.link import Link, NoGate
from claude_proxy.login import Login
from claude_proxy.metrics import Figures
from claude_proxy.sandbox import Sandbox
from serving import cors, openapi
from serving.asgi import App
from serving.auth import Guard, Keyring
from serving.errors import handlers
from serving.health import Gate, Health
from serving.logs import RequestLog
from serving.settings import Env


def create(health: Health) -> App:
    """Return the ASGI application; raises SettingsError."""
    chosen = settings.read(Env())
    keys = Keyring.for_host(
        chosen.keys_file,
        health.host,
        setting="CLAUDE_PROXY_KEYS_FILE",
        options=grants.OPTIONS,
        check=lambda key: grants.faults(key, chosen.servers),
    )
    sandbox = Sandbox(chosen.sandbox)
    sandbox.check()
    # From here on no other process of this user reads our environment or memory, sandboxed or not.
    kernel.hide()
    cli = Cli(chosen)
    calls: Calls
    runners = (lambda: calls.pool.connected if calls.pool else 0) if chosen.runners else None
    figures = Figures(lambda: calls.places.taken, lambda: calls.places.waiting, lambda: len(calls.spares), runners)
    gate = Link(chosen, figures.passed) if chosen.egress else NoGate(chosen)
    calls = Calls(chosen, cli, sandbox, gate)
    health.add("claude-cli", cli.working, required=True)
    health.add("claude-credential", Login(chosen).usable, required=False)
    if isinstance(gate, Link):
        health.add("gate", gate.working, required=True)
    health.add("sandbox", sandbox.working, required=sandbox.required)
    if calls.pool:
        health.add("runners", calls.pool.working, required=True)
        health.on_hand_over(calls.pool.hand_over)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await calls.start()
        try:
            yield
        finally:
            await calls.close()

    chat = Chat(calls, figures, chosen.servers, chosen.max_body, chosen.keep_alive)
    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{name:path}", _model),
        *health.routes(),
        figures.all.route(),
        openapi.route(Path(__file__).with_name("openapi.json")),
    ]
    inner = Starlette(routes=routes, exception_handlers=handlers(), lifespan=lifespan)
    inner.router.redirect_slashes = False
    guarded = cors.wrap(Gate(Guard(inner, keys), health), chosen.origins)
    return RequestLog(guarded, figures.all.observe)


async def _models(_request: Request) -> Response:
    return Response(orjson.dumps(models.listing()), media_type="application/json")


async def _model(request: Request) -> Response:
    return Response(orjson.dumps(models.entry(request.path_params["name"])), media_type="application/json")
