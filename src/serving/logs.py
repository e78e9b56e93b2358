"""JSON lines on a stream, each with the request's id; and one line per request. Never bodies, never headers."""

from __future__ import annotations

import logging
import random
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar, TextIO

import orjson

from serving import memory
from serving.asgi import App, Message, Receive, Scope, Send, header, notes
from serving.errors import internal

LEVELS = ("debug", "info", "warning", "error")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
Observe = Callable[[Scope, int, float], None]
"""What is told about each request after its end: scope, status (0: the client left before an answer) and seconds."""
QUIET = frozenset({"/health/accepting"})
"""Paths without a line, but at the level debug: load balancers ask several times a second."""
ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
log = logging.getLogger("serving.request")
_in_flight = 0


class JsonFormatter(logging.Formatter):
    """One JSON object per record: ts, level, logger, message, request_id, extra fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        for name, value in record.__dict__.items():
            if name not in STANDARD:
                line[name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def setup(level: str, stream: TextIO) -> None:
    """Send every log record of the process at or above `level` to `stream` as JSON lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    RequestLog.stream = stream
    root.setLevel(level.upper())
    # The servers' and libraries' own chatter about starting and stopping says nothing that ours does not.
    for name in ("uvicorn", "asyncio", "aiohttp", "watchfiles"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class RequestLog:
    """Outermost ASGI middleware: request id in and out, one log line per request, no exception gets past it.

    `observe` is called once per request, also when the client left; it must be quick.
    """

    stream: ClassVar[TextIO] = sys.stderr
    """Where the lines go; `setup` says."""

    def __init__(self, app: App, observe: Observe | None = None) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other ASGI events pass untouched."""
        global _in_flight
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        ident = _ident(scope)
        request_id.set(ident)
        status = 0
        stamp = (b"x-request-id", ident.encode())

        async def send_stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), stamp]
            await send(message)

        _in_flight += 1
        try:
            await self._app(scope, receive, send_stamped)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await internal().response()(scope, receive, send_stamped)
            # Otherwise the answer has begun: the server closes the connection of an unfinished one.
        finally:
            _in_flight -= 1
            memory.release(scope)
            seconds = time.perf_counter() - began
            if self._observe:
                self._observe(scope, status, seconds)
            if log.isEnabledFor(logging.DEBUG if scope["path"] in QUIET else logging.INFO):
                _line(scope, status, seconds)


def in_flight() -> int:
    """Return how many requests are being answered in this process."""
    return _in_flight


def _ident(scope: Scope) -> str:
    given = header(scope, b"x-request-id")
    return given.decode("ascii") if given and ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def _line(scope: Scope, status: int, seconds: float) -> None:
    # The same line as by logging, which takes a tenth of a small request's time: this one is written for each.
    state = notes(scope)
    line = {
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "logger": log.name,
        "message": "request",
        "request_id": request_id.get(),
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1000, 2),
        "key": state.get("key"),
        **state.get("log", {}),
    }
    RequestLog.stream.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE).decode())
    RequestLog.stream.flush()
