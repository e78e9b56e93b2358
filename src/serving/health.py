"""Liveness and readiness: what runs, what it depends on, and in which state each of that is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.asgi import App, Receive, Scope, Send
from serving.errors import ApiError
from serving.settings import SettingsError

log = logging.getLogger("serving.health")

CHECK_SECONDS = 2.0
"""The longest that one dependency may delay the answer about readiness."""

GRACE_SECONDS = 0.1
"""How long after the order to stop a request is still served: its client could not know yet."""

Check = Callable[[], Awaitable[None]]


class NotConfigured(Exception):
    """Raised by a check whose dependency nobody configured: it is listed, but degrades nothing."""


@dataclass(frozen=True)
class Dependency:
    """Something that the service needs (`required`) or can do without for a while."""

    name: str
    check: Check
    required: bool


class Health:
    """The service's own phase and its dependencies. `host` is the address that the service is bound to."""

    def __init__(self, service: str = "service", host: str = "127.0.0.1") -> None:
        self.service = service
        self.host = host
        self._phase = "starting"
        self._closed = float("inf")
        self._dependencies: list[Dependency] = []
        self._sources: list[Callable[[], Iterable[Dependency]]] = []
        self._reloads: list[Callable[[], None]] = []

    def started(self) -> None:
        """Requests are being accepted from now on."""
        self._phase = "ok"

    def draining(self) -> None:
        """The service is about to end: it is not ready any more, running requests finish."""
        if self._phase != "draining":
            self._phase = "draining"
            self._closed = time.monotonic() + GRACE_SECONDS

    @property
    def refuses(self) -> bool:
        """Whether new work is turned away, because the service is about to end."""
        return time.monotonic() > self._closed

    def add(self, name: str, check: Check, *, required: bool) -> None:
        """Name a dependency. `check` raises when it does not work; the exception's text is shown to everyone."""
        self._dependencies.append(Dependency(name, check, required))

    def add_source(self, source: Callable[[], Iterable[Dependency]]) -> None:
        """Name dependencies that may change: they are asked for at every report."""
        self._sources.append(source)

    def on_reload(self, callback: Callable[[], None]) -> None:
        """Have `callback` called in the event loop at every SIGHUP; what it raises is logged and ends nothing."""
        self._reloads.append(callback)

    def reloaded(self) -> None:
        """Tell everyone who asked for it to read their files again."""
        log.info("SIGHUP: reading files again" if self._reloads else "SIGHUP: there is nothing to read again")
        for callback in self._reloads:
            try:
                callback()
            except SettingsError as error:
                log.error("not reloaded: %s", "; ".join(error.faults))
            except Exception:
                log.exception("not reloaded")

    async def report(self) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status of readiness and the document that explains it."""
        dependencies = [*self._dependencies, *(each for source in self._sources for each in source())]
        results = await asyncio.gather(*(_examine(each) for each in dependencies))
        states = {each.name: result for each, result in zip(dependencies, results, strict=True)}
        failed = [each for each in dependencies if states[each.name]["state"] == "failed"]
        status = self._phase
        if status == "ok" and any(each.required for each in failed):
            status = "unavailable"
        elif status == "ok" and failed:
            status = "degraded"
        code = 200 if status in ("ok", "degraded") else 503
        return code, {"status": status, "service": self.service, "dependencies": states}

    def routes(self) -> list[Route]:
        """Return /health/live, /health/ready and /health (the same as ready)."""
        return [
            Route("/health/live", _live),
            Route("/health/ready", self._ready),
            Route("/health", self._ready),
        ]

    async def _ready(self, _request: Request) -> Response:
        code, document = await self.report()
        return _json(code, document)


class Gate:
    """ASGI middleware: a service that is about to end takes no new work below `protected`, and says when to retry."""

    def __init__(self, app: App, health: Health, protected: str = "/v1/") -> None:
        self._app = app
        self._health = health
        self._protected = protected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 503."""
        if self._health.refuses and scope["type"] == "http" and scope["path"].startswith(self._protected):
            headers = {"retry-after": "1", "connection": "close"}
            message = "The service is about to end; send the request again."
            error = ApiError(503, message, type="server_error", code="draining", headers=headers)
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _live(_request: Request) -> Response:
    return _json(200, {"status": "live"})


async def _examine(dependency: Dependency) -> dict[str, Any]:
    result: dict[str, Any] = {"state": "ok", "required": dependency.required}
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await dependency.check()
    except NotConfigured as error:
        result |= {"state": "not configured", "reason": str(error)}
    except TimeoutError:
        result |= {"state": "failed", "reason": f"no answer within {CHECK_SECONDS:g} s"}
    except Exception as error:
        result |= {"state": "failed", "reason": str(error) or type(error).__name__}
    return result


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(
        orjson.dumps(document), status, headers={"cache-control": "no-store"}, media_type="application/json"
    )
