"""Puts the gateway together: settings, upstreams, cache, routing, routes, health."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route

from llm_call.api import models, routing, settings, store
from llm_call.api.cache import Cache
from llm_call.api.endpoint import Endpoint
from llm_call.api.gateway import Gateway
from llm_call.api.learning import Learner
from llm_call.api.settings import Settings
from llm_call.api.store import Store
from llm_call.api.telemetry import Telemetry
from llm_call.api.upstreams import Upstreams
from serving import cors, openapi
from serving.asgi import App
from serving.auth import Guard
from serving.direct import Direct
from serving.errors import handlers
from serving.health import Dependency, Gate, Health
from serving.logs import RequestLog
from serving.metrics import Metrics

log = logging.getLogger("llm_call")

PATHS = ("/v1/embeddings", "/v1/models/*", "/v1/routing", "/v1/feedback")
"""What the gateway serves besides the paths that all services have; labels of its metrics."""


def create(health: Health) -> App:
    """Return the gateway configured by the environment. Raises SettingsError."""
    chosen = settings.read(health.host)
    if chosen.keyring.open:
        log.warning("no API keys are configured: everyone on this machine may use the service")
    if chosen.local.require_gpu:
        # Imported here only, as nothing of it runs where nobody asks for it.
        from llm_call.api.local import device

        device.demand(chosen.local)
    return assemble(chosen, health, Upstreams(chosen.local), store.connect(chosen.redis_url, chosen.redis_login))


def assemble(chosen: Settings, health: Health, pool: Upstreams, redis: Store) -> App:
    """Return the gateway as an ASGI application."""
    metrics = Metrics("llm_call", PATHS)
    gateway = Gateway(
        chosen.catalog,
        pool,
        Telemetry(metrics.registry),
        cache=_cache(chosen, redis),
        learner=Learner(redis) if chosen.rl_routing else None,
        body_limit=chosen.body_limit,
        keep_alive=chosen.keep_alive,
    )
    gateway.show_gauges()
    _declare_dependencies(gateway, health, redis)
    metrics.before(health.watch)
    gateway.telemetry.show_surroundings(health.watched, chosen.cache_folder)
    health.on_reload(lambda: gateway.reload(settings.models_again))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.close()
            await redis.close()

    endpoints: dict[str, App] = {
        "/v1/chat/completions": Endpoint(gateway, "chat/completions"),
        "/v1/embeddings": Endpoint(gateway, "embeddings"),
    }
    app = Starlette(
        routes=[
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()),
            *models.routes(lambda: gateway.catalog),
            *routing.routes(gateway),
            *health.routes(),
            metrics.route(),
            openapi.route(Path(__file__).with_name("openapi.json")),
        ],
        exception_handlers=handlers(),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would send clients to whatever host they named
    guarded = cors.wrap(Gate(Guard(Direct(app, endpoints), chosen.keyring), health), chosen.cors_origins)
    return RequestLog(guarded, metrics.observe)


def _cache(chosen: Settings, redis: Store) -> Cache | None:
    if not chosen.cache_ttl:
        return None
    return Cache(redis, chosen.cache_ttl, chosen.cache_entry, shared=chosen.cache_shared)


def _declare_dependencies(gateway: Gateway, health: Health, redis: Store) -> None:
    async def catalog_holds_models() -> None:
        if not gateway.catalog.routes:
            msg = "no model is switched on"
            raise LookupError(msg)

    health.add("catalog", catalog_holds_models, required=True)
    health.add("redis", redis.check, required=False)
    health.add_source(lambda: _upstreams(gateway))
    health.add_source(gateway.pool.dependencies)


def _upstreams(gateway: Gateway) -> Iterator[Dependency]:
    """Yield what can be told of an upstream without asking a provider: a missing key, whether what is ours works."""
    for upstream in gateway.catalog.upstreams.values():
        if upstream.lacks_key or upstream.kind in ("claude-proxy", "llama"):
            yield Dependency(upstream.name, partial(gateway.pool.check, upstream), required=False)
