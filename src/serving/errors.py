"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

Handler = Callable[[Request, Exception], Awaitable[Response]]


class ApiError(Exception):
    """A request that fails with `status`; the message is meant for the client and says what to change."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self, *, status: bool = False) -> bytes:
        """Return the JSON document that the client reads; with the `status` where the answer's own is another."""
        fields: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": fields | {"status": self.status} if status else fields})

    def response(self) -> Response:
        """Return the error as a response that ASGI applications can send themselves."""
        return Response(self.body(), self.status, headers=self.headers, media_type="application/json")


def internal() -> ApiError:
    """Return what a client sees of a fault of ours: nothing but that it happened."""
    return ApiError(500, "Internal error; the log holds the cause under this request id.", type="server_error")


def handlers() -> dict[Any, Handler]:
    """Return Starlette's exception handlers: ApiError, 404, 405 and 500 all in the same shape."""
    return {
        ApiError: _api_error,
        HTTPException: _http_exception,
        ClientDisconnect: _client_left,
        Exception: _unexpected,
    }


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    messages = {404: f"{where}: there is no such path.", 405: f"{where}: method not allowed here."}
    message = messages.get(error.status_code) or error.detail or HTTPStatus(error.status_code).phrase
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(error.status_code, message, type=kind, code=code, headers=error.headers).response()


async def _client_left(_request: Request, _error: Exception) -> Response:
    # Nobody reads this; the status is for the log and the metrics (nginx's number for it).
    return ApiError(499, "The client left before the request was whole.").response()


async def _unexpected(_request: Request, _error: Exception) -> Response:
    # The traceback is logged once, by serving.logs.RequestLog, to which Starlette raises the exception again.
    return internal().response()
