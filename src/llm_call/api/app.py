"""Puts the gateway together: settings, upstreams, cache, routes, health."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from llm_call.api import cache as answers
from llm_call.api import models, settings
from llm_call.api.cache import Cache
from llm_call.api.catalog import Catalog, Upstream
from llm_call.api.chat import ChatCompletions
from llm_call.api.settings import Settings
from llm_call.api.upstreams import Upstreams
from serving.asgi import App
from serving.auth import Guard
from serving.errors import handlers
from serving.health import Gate, Health, NotConfigured
from serving.logs import RequestLog

log = logging.getLogger("llm_call")


def create(health: Health) -> App:
    """Return the gateway configured by the environment. Raises SettingsError."""
    chosen = settings.read(health.host)
    if chosen.rl_routing:
        log.warning("ENABLE_RL_ROUTING is on, but this version has no such routing: it has no effect")
    if chosen.keyring.open:
        log.warning("no API keys are configured: everyone on this machine may use the service")
    cache = answers.connect(chosen.redis_url, chosen.redis_password, chosen.cache_ttl) if chosen.redis_url else None
    return assemble(chosen, health, Upstreams(), cache)


def assemble(chosen: Settings, health: Health, pool: Upstreams, cache: Cache | None) -> App:
    """Return the gateway as an ASGI application."""
    _declare_dependencies(chosen.catalog, health, pool, cache)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await pool.start()
        try:
            yield
        finally:
            await pool.close()
            if cache:
                await cache.close()

    chat = ChatCompletions(chosen.catalog, pool, cache, chosen.body_limit)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            *models.routes(chosen.catalog),
            *health.routes(),
        ],
        exception_handlers=handlers(),
        lifespan=lifespan,
    )
    return RequestLog(Gate(Guard(app, chosen.keyring), health))


def _declare_dependencies(catalog: Catalog, health: Health, pool: Upstreams, cache: Cache | None) -> None:
    async def catalog_holds_models() -> None:
        if not catalog.models:
            msg = "no model is switched on"
            raise LookupError(msg)

    async def no_redis() -> None:
        msg = "REDIS_URL is not set"
        raise NotConfigured(msg)

    health.add("catalog", catalog_holds_models, required=True)
    health.add("redis", cache.check if cache else no_redis, required=False)
    for upstream in catalog.upstreams.values():
        if upstream.lacks_key or upstream.kind == "claude-proxy":
            health.add(upstream.name, _checker(pool, upstream), required=False)


def _checker(pool: Upstreams, upstream: Upstream) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        await pool.check(upstream)

    return check
