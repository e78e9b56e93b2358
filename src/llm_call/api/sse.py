"""Sends whole answers, and notices a client that went away."""

from __future__ import annotations

import asyncio
from types import TracebackType

from serving.asgi import Receive, Send
from serving.body import ClientGone
from serving.event_stream import Headers

PATIENCE_SECONDS = 0.05
"""What takes less is not watched: a task costs more than it could save."""


class Presence:
    """While entered, the running task is cancelled when the client goes away, and ClientGone raised instead.

    The request's body must have been read before.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task, "only inside a running event loop"
        self._task = task
        self._watch: asyncio.Task[None] | asyncio.TimerHandle = task.get_loop().call_later(
            PATIENCE_SECONDS, self._begin
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGone from None

    def _begin(self) -> None:
        self._watch = self._task.get_loop().create_task(self._wait())

    async def _wait(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._gone = True
        self._task.cancel()


async def answer(body: bytes, headers: Headers, send: Send) -> None:
    """Send a whole answer of status 200."""
    sized = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": sized})
    await send({"type": "http.response.body", "body": body})
