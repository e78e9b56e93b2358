"""Calls an ASGI application directly: no socket, no server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """What the application sent; `complete` is False when it never ended its answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes]
    complete: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    gone: asyncio.Event | None = None,
    reading: asyncio.Event | None = None,
) -> Answer:
    """Send one request; the client leaves when `gone` is set, and takes nothing before `reading` is."""
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "root_path": "",
        "headers": pairs,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    events: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if reading:
            await reading.wait()
        sent.append(message)

    await app(scope, receive, send)
    return _answer(sent)


def _answer(sent: list[dict[str, Any]]) -> Answer:
    if not sent:
        return Answer(0, {}, b"", [], False)
    head, *rest = sent
    named = {name.decode(): value.decode() for name, value in head["headers"]}
    chunks = [message["body"] for message in rest]
    complete = bool(rest) and not rest[-1].get("more_body")
    return Answer(head["status"], named, b"".join(chunks), chunks, complete)
