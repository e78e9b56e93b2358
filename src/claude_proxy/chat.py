"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio

import orjson

from claude_proxy.answers import Plain, Stream
from claude_proxy.calls import Calls
from claude_proxy.conversation import Ask, translate
from serving.asgi import Receive, Scope, Send, notes
from serving.errors import ApiError


class Chat:
    """An ASGI endpoint, because it has to notice a client that leaves while the CLI works."""

    def __init__(self, calls: Calls, max_body: int) -> None:
        self._calls = calls
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises ApiError as long as nothing of the answer was sent."""
        body = await self._read(receive)
        if body is None:
            return
        ask = translate(_parse(body))
        notes(scope)["log"] = {"model": ask.model, "stream": ask.stream}
        answer = Stream(ask, send) if ask.stream else Plain(ask, send)
        work = asyncio.create_task(self._answer(ask, answer))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answer.complete:
                notes(scope)["log"]["disconnected"] = True
                work.cancel()
            await _conclude(work)
        finally:
            # Does nothing to what is done; otherwise this request was cancelled itself, and its CLI has to end.
            gone.cancel()
            work.cancel()

    async def _answer(self, ask: Ask, answer: Plain | Stream) -> None:
        try:
            await self._calls.run(ask, answer)
        except ApiError as error:
            await answer.fail(error)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or None when the client left before its end; raises ApiError 413."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                text = f"The body is larger than {self._max_body} bytes; send less."
                raise ApiError(413, text, code="request_too_large")
            if not message.get("more_body", False):
                return b"".join(parts)


def _parse(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise ApiError(400, text, code="invalid_json") from error


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _conclude(work: asyncio.Task[None]) -> None:
    """Wait for the end of the work, raising what it raised; that it was cancelled is no error."""
    await asyncio.wait({work})
    if not work.cancelled():
        work.result()
