"""A TCP connection as bytes to wait for, with a bound on what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

HIGH_WATER = 256 * 1024
"""In bytes: what is read of a connection before somebody takes it."""


class Gone(ConnectionError):
    """The other side closed the connection, or was cut off."""


class Connection(asyncio.Protocol):
    """One connection. `on_made`, `on_begun` (the first byte is here) and `on_lost` are called at their time, once each."""

    def __init__(self) -> None:
        self.on_made: Callable[[], None] | None = None
        self.on_begun: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.transport: asyncio.Transport
        self.made = 0.0
        self.ended = False
        self._buffer = bytearray()
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its type
        self.made = asyncio.get_running_loop().time()
        if self.on_made:
            self.on_made()

    def data_received(self, data: bytes) -> None:
        """Keep what came, until it is taken."""
        self._buffer += data
        if begun := self.on_begun:
            self.on_begun = None
            begun()
        if len(self._buffer) > HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Take the other side's end for the end of all: nobody here sends a request and stops to listen to its answer."""
        self.ended = True
        self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell who waits."""
        self.ended = True
        self._wake()
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        if self.on_lost:
            self.on_lost()

    def pause_writing(self) -> None:
        """Have writers wait."""
        self._full = True

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._full = False
        if self._drained and not self._drained.done():
            self._drained.set_result(None)

    async def until(self, end: bytes, most: int) -> bytes:
        """Return what comes up to and with `end`; raises Gone, and ValueError for more than `most` bytes without it."""
        start = 0
        while (found := self._buffer.find(end, start)) < 0:
            if len(self._buffer) > most:
                raise ValueError(most)
            start = max(0, len(self._buffer) - len(end) + 1)
            await self._more()
        return self._take(found + len(end))

    async def some(self, most: int = HIGH_WATER) -> bytes:
        """Return what is there, or comes next; nothing at the end."""
        if not self._buffer:
            try:
                await self._more()
            except Gone:
                return b""
        return self._take(most)

    async def begun(self) -> None:
        """Wait for the first byte of what comes next; raises Gone."""
        if not self._buffer:
            await self._more()

    async def write(self, data: bytes) -> None:
        """Write, and wait while too much of it is not read by the other side; raises Gone."""
        if self.ended:
            raise Gone
        self.transport.write(data)
        if self._full:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
            if self.ended:
                raise Gone

    @property
    def idle(self) -> bool:
        """Whether nothing has come that nobody took, and nothing has ended."""
        return not self._buffer and not self.ended and not self.transport.is_closing()

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        if self._paused and len(self._buffer) <= HIGH_WATER // 2:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def _more(self) -> None:
        if self.ended:
            raise Gone
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
        if self.ended and not self._buffer:
            raise Gone

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
