"""How an answer reaches the client: as one document, or as a stream of server-sent events."""

from __future__ import annotations

import re
from io import StringIO
from types import TracebackType

import orjson

from claude_proxy import failures, wire
from claude_proxy.conversation import Ask
from claude_proxy.events import Began, Event, Finished, Text
from serving.asgi import Send
from serving.errors import ApiError
from serving.event_stream import EVENTS, EventStream, Headers

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The names that a header can tell; a request may call its fields anything."""


def _headers(ask: Ask, content_type: bytes) -> Headers:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    if ask.ignored:
        headers.append((b"x-claude-proxy-ignored", ", ".join(filter(NAME.fullmatch, ask.ignored)).encode()[:500]))
    return headers


class Plain:
    """Sends one document when the answer is whole. `complete` from then on: a client may leave without being missed."""

    def __init__(self, ask: Ask, send: Send) -> None:
        self.complete = False
        self._ask = ask
        self._send = send

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return

    async def __call__(self, event: Event) -> None:
        """Take an event of the call."""
        if not isinstance(event, Finished):
            return
        body = orjson.dumps(wire.Answer(event.model, session=self._ask.session).plain(event))
        headers = [*_headers(self._ask, b"application/json"), (b"content-length", str(len(body)).encode())]
        self.complete = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: ApiError) -> None:
        """Leave the answer to the error handlers: nothing was sent yet."""
        raise error


class Stream:
    """Sends each piece as it comes. The status goes out when the provider has accepted the request, not before.

    Only where that takes too long a comment comes first, and with it the status 200. To be entered.
    """

    def __init__(self, ask: Ask, send: Send, keep_alive: float = 0.0) -> None:
        self.complete = False
        self._ask = ask
        self._answer = wire.Answer(ask.model, ask.include_usage, ask.session)
        self._sent = StringIO()
        self._begun = False
        self._headers: Headers = [*_headers(ask, EVENTS.encode()), (b"x-accel-buffering", b"no")]
        self._out = EventStream(send, keep_alive, lambda: self._headers)

    def __enter__(self) -> Stream:
        self._out.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.__exit__(kind, error, trace)

    async def __call__(self, event: Event) -> None:
        """Take an event of the call."""
        match event:
            case Began(model, restarted):
                if restarted and self._sent.tell():
                    raise failures.interrupted()
                await self._begin(model)
            case Text(text):
                await self._piece(text)
            case Finished():
                await self._finish(event)

    async def fail(self, error: ApiError) -> None:
        """Tell the error as the stream's last event; where nothing was sent, leave it to the error handlers."""
        self.complete = self._out.started
        # As long as nothing of an answer was sent, the gateway may ask again or elsewhere, by the status.
        await self._out.fail(error, status=not self._begun)

    async def _begin(self, model: str) -> None:
        if self._begun:
            return
        self._begun = True
        self._answer.model = model
        await self._out.start(self._headers)
        await self._write(self._answer.opening())

    async def _piece(self, text: str) -> None:
        self._sent.write(text)
        await self._write(self._answer.piece(text))

    async def _finish(self, finished: Finished) -> None:
        await self._begin(finished.model)
        sent = self._sent.getvalue()
        if not finished.text.startswith(sent):
            raise failures.interrupted()
        rest = finished.text[len(sent) :]
        if rest:
            await self._piece(rest)
        await self._write(self._answer.closing(finished), more=False)

    async def _write(self, content: bytes, *, more: bool = True) -> None:
        self.complete = not more
        await self._out.write(content, more=more)
