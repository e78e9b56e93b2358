"""Reads a request's body and the JSON object in it, with OpenAI-shaped errors for whatever is wrong."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import ClientDisconnect

from serving import memory
from serving.asgi import Receive, Scope, header
from serving.errors import ApiError


class ClientGone(ClientDisconnect):
    """The client closed its connection: nobody waits for an answer any more."""


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body, of at most `limit` bytes. Raises ApiError 413, 415 or 503, and ClientGone."""
    kind = header(scope, b"content-type")
    if kind and kind != b"application/json" and not _is_json(kind):
        raise _not_json()
    declared = header(scope, b"content-length")
    length = int(declared) if declared and declared.isdigit() else 0
    if length > limit:
        raise _too_large(limit)
    if length > memory.SMALL_BYTES:
        memory.hold(scope, length)
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
        if not length:
            memory.hold(scope, len(chunk))
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise ClientGone


def parse(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises ApiError 400 or 413."""
    memory.check_values(raw)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        raise ApiError(400, message, code="invalid_json") from error
    if not isinstance(body, dict):
        message = "The body is not a JSON object."
        raise ApiError(400, message, code="invalid_json")
    return body


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
