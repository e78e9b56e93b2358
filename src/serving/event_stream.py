"""A stream of server-sent events to a client, with a comment wherever it would be silent for too long.

Proxies and load balancers cut connections on which nothing comes, most of them after 60 s: a tool that works, a queue or
an upstream that thinks must not look like that. A comment before the first event needs a head, which fixes the status to
200: so it comes only after the whole time of silence, and whatever fails faster has a status of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from serving.asgi import Send
from serving.errors import ApiError
from serving.settings import Env

Headers = list[tuple[bytes, bytes]]

SECONDS = 15.0
"""The longest silence: a quarter of what usual proxies allow, so that three comments may be lost."""
EARLY = 0.9
"""A comment comes after this part of the time, so that it is there in time."""
COMMENT = b": keep-alive\n\n"
EVENTS = "text/event-stream"
ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
"""How an event may end (WHATWG, 9.2.6)."""
LONGEST_END = max(map(len, ENDS))


def seconds(env: Env, prefix: str) -> float:
    """Return the setting `<prefix>_KEEP_ALIVE_SECONDS`; 0: no comments."""
    return env.seconds(f"{prefix}_KEEP_ALIVE_SECONDS", SECONDS, maximum=3600)


class EventStream:
    """Sends one answer that may be a stream. While entered, comments go out in silence, never within an event.

    `early` returns the headers with which the stream begins if the first thing to say is a comment. With `seconds` 0 nothing
    of this happens.
    """

    def __init__(self, send: Send, seconds: float, early: Callable[[], Headers]) -> None:
        self.started = False
        self.status = 200
        self._send = send
        self._seconds = seconds * EARLY
        self._early = early
        self._begun = False
        self._ended = False
        self._comments = True
        self._between = True
        self._writing = False
        self._comment: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> EventStream:
        if self._seconds:
            self._loop = asyncio.get_running_loop()
            self._spoken = self._loop.time()
            self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if self._timer:
            self._timer.cancel()
        if self._comment:
            self._comment.cancel()

    async def start(self, headers: Headers) -> None:
        """Send the head, unless a comment needed one before. Raises ApiError 502 where that promised another content."""
        if self._comment:
            await asyncio.wait({self._comment})
        self._begun = True
        events = any(name == b"content-type" and value.startswith(EVENTS.encode()) for name, value in headers)
        if self.started and not events:
            message = "The upstream's answer to a request for a stream is no stream."
            raise ApiError(502, message, type="server_error", code="upstream_failed")
        self._comments = events
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, content: bytes, *, more: bool = True) -> None:
        """Send the next bytes; the last ones with `more` False."""
        if self._comment:
            await asyncio.wait({self._comment})
        self._ended = not more
        self._writing = True
        try:
            await self._send({"type": "http.response.body", "body": content, "more_body": more})
        finally:
            self._writing = False
        if self._timer:
            self._spoken = self._loop.time()
            self._between = content.endswith(ENDS) if content else self._between

    async def relay(self, headers: Headers, chunks: AsyncIterator[bytes]) -> None:
        """Send a whole answer of which each chunk goes out at once."""
        await self.start(headers)
        async for chunk in chunks:
            await self.write(chunk)
        await self.write(b"", more=False)

    async def fail(self, error: ApiError, *, status: bool = False) -> None:
        """Tell the error as the stream's last event; raises it where nothing was sent yet.

        The stream then lacks the `[DONE]`, and OpenAI's clients raise what the event says. `status`: the event also tells
        the status that the answer would have had.
        """
        if not self.started:
            raise error
        if not self._begun:
            self.status = error.status
        await self.write(b"data: " + error.body(status=status) + b"\n\n", more=False)

    def _look(self) -> None:
        left = self._spoken + self._seconds - self._loop.time()
        self._timer = self._loop.call_later(left if left > 0 else self._seconds, self._look)
        # While a write waits for the client to read, there is no silence of ours.
        silent = left <= 0 and self._comments and self._between and not self._writing
        if silent and not self._ended and not self._comment:
            self._comment = self._loop.create_task(self._say())

    async def _say(self) -> None:
        try:
            if not self.started:
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._early()})
            await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
            self._spoken = self._loop.time()
        finally:
            self._comment = None


def whole(data: bytes | bytearray, start: int = 0) -> int:
    """Return where the last event ends that is whole in `data`, 0 if none is; nothing ends before `start`."""
    return max((found + len(end) for end in ENDS if (found := data.rfind(end, start)) >= 0), default=0)
