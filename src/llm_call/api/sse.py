"""Passes an upstream's stream on as it comes, and notices a client that went away."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

import aiohttp

from serving.asgi import Receive, Send

log = logging.getLogger("llm_call.sse")

Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed its connection: nobody waits for an answer any more."""


class Presence:
    """While entered, the running task is cancelled as soon as the client goes away, and ClientGone raised instead.

    The request's body must have been read before.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task, "only inside a running event loop"
        self._task = task
        self._watch = asyncio.create_task(self._wait())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGone from None

    async def _wait(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._gone = True
        self._task.cancel()


async def relay(response: aiohttp.ClientResponse, headers: Headers, send: Send) -> None:
    """Send the response's status, `headers` and bytes, each chunk at once.

    If the upstream breaks off, so does the answer: without its end, so that the client can tell.
    """
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("the upstream broke off its stream: %s", str(error) or type(error).__name__)
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def answer(body: bytes, headers: Headers, send: Send) -> None:
    """Send a whole answer of status 200."""
    sized = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": sized})
    await send({"type": "http.response.body", "body": body})
