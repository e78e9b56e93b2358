"""Names for the ASGI types, without importing a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that (lower-case) name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def joined(scope: Scope, name: bytes) -> bytes:
    """Return the values of all headers of that (lower-case) name as one list."""
    return b", ".join(value for key, value in scope["headers"] if key == name)


def notes(scope: Scope) -> dict[str, Any]:
    """Return the request's own dictionary: `key` (who asked) and `log` (extra fields for the request's log line)."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state
