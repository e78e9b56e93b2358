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
from serving.options import NOTICE_SECONDS
from serving.settings import SettingsError

log = logging.getLogger("serving.health")

CHECK_SECONDS = 2.0
"""The longest that one dependency may delay the answer about readiness."""

FRESH_SECONDS = 5.0
"""How old results may be for who only watches, so that watching asks dependencies seldom."""

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
    """The service's own phase and its dependencies. `host` is the address that the service is bound to.

    New work is taken until `notice` seconds after `draining`.
    """

    def __init__(self, service: str = "service", host: str = "127.0.0.1", notice: float = NOTICE_SECONDS) -> None:
        self.service = service
        self.host = host
        self._notice = notice
        self._phase = "starting"
        self._closed = float("inf")
        self._dependencies: list[Dependency] = []
        self._sources: list[Callable[[], Iterable[Dependency]]] = []
        self._reloads: list[Callable[[], None]] = []
        self._handovers: list[Callable[[], None]] = []
        self._examining: asyncio.Task[None] | None = None
        self._states: dict[str, dict[str, Any]] = {}
        self._examined = float("-inf")

    def started(self) -> None:
        """Requests are being accepted from now on."""
        self._phase = "ok"

    def draining(self) -> None:
        """The service is about to end: it is not ready any more, running requests finish."""
        if self._phase != "draining":
            self._phase = "draining"
            self._closed = time.monotonic() + self._notice

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

    def on_hand_over(self, callback: Callable[[], None]) -> None:
        """Have `callback` called in the event loop once another worker has taken over."""
        self._handovers.append(callback)

    def handed_over(self) -> None:
        """Tell everyone who asked for it that new requests go to another worker."""
        for callback in self._handovers:
            callback()

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
        states = await self._examine_all()
        failed = [each for each in states.values() if each["state"] == "failed"]
        status = self._phase
        if status == "ok" and any(each["required"] for each in failed):
            status = "unavailable"
        elif status == "ok" and failed:
            status = "degraded"
        code = 200 if status in ("ok", "degraded") else 503
        return code, {"status": status, "service": self.service, "dependencies": states}

    def watched(self) -> dict[str, float]:
        """Return which dependencies worked (1) and which did not (0) when last examined; see `watch`."""
        states = {name: each["state"] for name, each in self._states.items()}
        return {name: float(state == "ok") for name, state in states.items() if state != "not configured"}

    async def watch(self) -> None:
        """See to it that what `watched` returns is at most FRESH_SECONDS old; takes at most CHECK_SECONDS."""
        if time.monotonic() - self._examined < FRESH_SECONDS:
            return
        # Who comes meanwhile waits for the same examination, which goes on when the one who began it leaves.
        if self._examining is None or self._examining.done():
            self._examining = asyncio.create_task(self._renew())
        await asyncio.shield(self._examining)

    async def _renew(self) -> None:
        await self._examine_all()

    async def _examine_all(self) -> dict[str, dict[str, Any]]:
        dependencies = [*self._dependencies, *(each for source in self._sources for each in source())]
        results = await asyncio.gather(*(_examine(each) for each in dependencies))
        self._states = {each.name: result for each, result in zip(dependencies, results, strict=True)}
        self._examined = time.monotonic()
        return self._states

    def routes(self) -> list[Route]:
        """Return /health/live, /health/accepting, /health/ready and /health (the same as ready)."""
        return [
            Route("/health/live", _live),
            Route("/health/accepting", self._accepting),
            Route("/health/ready", self._ready),
            Route("/health", self._ready),
        ]

    async def _accepting(self, _request: Request) -> Response:
        # For load balancers. 404 is HAProxy's word for "nothing new, please, but do not interrupt what runs".
        status, code = {"ok": ("accepting", 200), "starting": ("starting", 503)}.get(self._phase, (self._phase, 404))
        return _json(code, {"status": status})

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
            headers = {"retry-after": "1"}
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
