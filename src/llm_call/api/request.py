"""Reads a request: no more is checked than what the gateway itself needs; the rest is the upstream's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import orjson

from llm_call.api.sse import ClientGone
from serving.asgi import Receive, Scope, header
from serving.errors import ApiError

Wire = Literal["chat/completions", "embeddings"]
"""What is asked for: the path below an upstream's base URL."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `raw` as it came, `body` as parsed."""

    wire: Wire
    raw: bytes
    body: dict[str, Any]
    model: str
    stream: bool

    def named(self, model: str) -> bytes:
        """Return the request as JSON under another model name; untouched if the name is the same."""
        return self.raw if model == self.model else encode({**self.body, "model": model})

    @property
    def deterministic(self) -> bool:
        """Whether asking again ought to give the same answer."""
        if self.wire == "embeddings":
            return True
        temperature = self.body.get("temperature")
        return (temperature == 0 and temperature is not False) or self.body.get("seed") is not None


async def read(scope: Scope, receive: Receive, wire: Wire, limit: int) -> Asked:
    """Return the request. Raises ApiError 400, 413 or 415, and ClientGone."""
    return parse(await whole(scope, receive, limit), wire)


def parse(raw: bytes, wire: Wire) -> Asked:
    """Return the request in `raw`. Raises ApiError 400 naming the field at fault."""
    body = document(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        reject("model", "is the name of a model, see GET /v1/models")
    if wire == "embeddings":
        if not isinstance(body.get("input"), str | list) or not body["input"]:
            reject("input", "is a text, or a list of texts or token numbers, and not empty")
        return Asked(wire, raw, body, model, stream=False)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        reject("messages", "is a list of at least one message")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        reject("stream", "is true or false")
    return Asked(wire, raw, body, model, bool(stream))


def document(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises ApiError 400."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        raise ApiError(400, message, code="invalid_json") from error
    if not isinstance(body, dict):
        message = "The body is not a JSON object."
        raise ApiError(400, message, code="invalid_json")
    return body


def encode(document: Any, option: int = 0) -> bytes:
    """Return parsed JSON as JSON again. Raises ApiError 400 for what can be parsed but not written: 255 levels deep."""
    try:
        return orjson.dumps(document, option=option)
    except orjson.JSONEncodeError as error:
        message = "The body is nested too deeply."
        raise ApiError(400, message, code="invalid_json") from error


async def whole(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a request, of at most `limit` bytes. Raises ApiError 413 or 415, and ClientGone."""
    kind = header(scope, b"content-type")
    if kind and kind != b"application/json" and not _is_json(kind):
        raise _not_json()
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


def reject(param: str, message: str) -> NoReturn:
    """Raise ApiError 400 for the field `param`."""
    raise ApiError(400, f'"{param}" {message}.', param=param, code="invalid_value")


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == b"application/json" or media.endswith(b"+json")


def _not_json() -> ApiError:
    # A browser lets any page send other types anywhere, without asking first.
    message = 'The content type is not JSON; send the header "Content-Type: application/json".'
    return ApiError(415, message, code="unsupported_media_type")


def _too_large(limit: int) -> ApiError:
    # The server passes over the rest of the body. If it closed the connection, the client would see a reset, not this.
    return ApiError(413, f"The body exceeds {limit} bytes; send less.", code="request_too_large")
