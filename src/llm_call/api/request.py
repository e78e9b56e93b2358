"""Reads a chat request: no more is checked than what the gateway itself needs; the rest is the upstream's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from llm_call.api.sse import ClientGone
from serving.asgi import Receive, Scope, header
from serving.errors import ApiError


@dataclass(frozen=True)
class ChatRequest:
    """A request: `raw` as it came, `body` as parsed."""

    raw: bytes
    body: dict[str, Any]
    model: str
    stream: bool

    def named(self, model: str) -> bytes:
        """Return the request as JSON under another model name; untouched if the name is the same."""
        return self.raw if model == self.model else encode({**self.body, "model": model})


async def read(scope: Scope, receive: Receive, limit: int) -> ChatRequest:
    """Return the request. Raises ApiError 400 or 413, and ClientGone."""
    return parse(await _whole(scope, receive, limit))


def parse(raw: bytes) -> ChatRequest:
    """Return the request in `raw`. Raises ApiError 400 naming the field at fault."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        raise ApiError(400, message, code="invalid_json") from error
    if not isinstance(body, dict):
        message = "The body is not a JSON object."
        raise ApiError(400, message, code="invalid_json")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        _reject("model", "is the name of a model, see GET /v1/models")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        _reject("messages", "is a list of at least one message")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        _reject("stream", "is true or false")
    return ChatRequest(raw, body, model, bool(stream))


def encode(document: Any, option: int = 0) -> bytes:
    """Return parsed JSON as JSON again. Raises ApiError 400 for what can be parsed but not written: 255 levels deep."""
    try:
        return orjson.dumps(document, option=option)
    except orjson.JSONEncodeError as error:
        message = "The body is nested too deeply."
        raise ApiError(400, message, code="invalid_json") from error


async def _whole(scope: Scope, receive: Receive, limit: int) -> bytes:
    declared = header(scope, b"content-length")
    if declared and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        first: bytes = message.get("body", b"")
        if len(first) > limit:
            raise _too_large(limit)
        return first
    chunks = []
    size = 0
    while message["type"] == "http.request":
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise ClientGone


def _reject(param: str, message: str) -> NoReturn:
    raise ApiError(400, f'"{param}" {message}.', param=param, code="invalid_value")


def _too_large(limit: int) -> ApiError:
    # The rest of the body is not read, so the connection cannot be used again.
    headers = {"connection": "close"}
    return ApiError(413, f"The body exceeds {limit} bytes.", code="request_too_large", headers=headers)
