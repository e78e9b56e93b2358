"""JSON lines on a stream, each with the request's id; and one line per request. Never bodies, never headers."""

from __future__ import annotations

import logging
import re
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import uuid4

import orjson

from serving.asgi import App, Message, Receive, Scope, Send, header, notes
from serving.errors import internal

LEVELS = ("debug", "info", "warning", "error")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
log = logging.getLogger("serving.request")


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
    root.setLevel(level.upper())
    # The servers' and libraries' own chatter about starting and stopping says nothing that ours does not.
    for name in ("uvicorn", "asyncio", "aiohttp", "watchfiles"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class RequestLog:
    """Outermost ASGI middleware: request id in and out, one log line per request, no exception gets past it."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other ASGI events pass untouched."""
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

        try:
            await self._app(scope, receive, send_stamped)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await internal().response()(scope, receive, send_stamped)
            # Otherwise the answer has begun: the server closes the connection of an unfinished one.
        finally:
            if log.isEnabledFor(logging.INFO):
                _line(scope, status, began)


def _ident(scope: Scope) -> str:
    given = header(scope, b"x-request-id")
    return given.decode("ascii") if given and ID.fullmatch(given) else uuid4().hex


def _line(scope: Scope, status: int, began: float) -> None:
    state = notes(scope)
    fields = {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round((time.perf_counter() - began) * 1000, 2),
        "key": state.get("key"),
        **state.get("log", {}),
    }
    log.info("request", extra=fields)
