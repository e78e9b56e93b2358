"""A bound on what the bodies of all requests at work hold together, so that no client can exhaust the process."""

from __future__ import annotations

from serving.asgi import Scope, notes
from serving.errors import ApiError

HELD_BYTES = 96 * 1024 * 1024
"""Of the bodies of all running requests. As bytes, parsed and written again each is there three times: below 300 MB."""
SMALL_BYTES = 64 * 1024
"""Smaller bodies are not counted: the limit of connections bounds them."""
VALUES = 1_000_000
"""In one body: a parsed value takes up to a hundred bytes, whatever the two or three of its text."""

_held = 0


def hold(scope: Scope, size: int) -> None:
    """Count `size` more bytes for this request until `release`. Raises ApiError 503 where that is too much."""
    global _held
    if _held + size > HELD_BYTES:
        message = "Too many large requests at once; send the request again."
        headers = {"retry-after": "1"}
        raise ApiError(503, message, type="server_error", code="too_many_large_requests", headers=headers)
    _held += size
    state = notes(scope)
    state["held"] = state.get("held", 0) + size


def release(scope: Scope) -> None:
    """Count nothing for this request any more."""
    global _held
    _held -= notes(scope).pop("held", 0)


def held() -> int:
    """Return how many bytes are held now."""
    return _held


def check_values(raw: bytes) -> None:
    """Raise ApiError 413 for a body whose values would take much more memory than its text."""
    if len(raw) > SMALL_BYTES and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUES:
        message = f"The body holds more than {VALUES} values; send less."
        raise ApiError(413, message, code="request_too_large")
