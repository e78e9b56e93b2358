"""A TCP connection as bytes to wait for, with bounds on what it holds, and the gate's door: who may hold one, how long."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import cast

HIGH_WATER = 256 * 1024
"""In bytes: what is read of a connection before somebody takes it."""
STRANGERS, MOST_STRANGERS = 1024, 4096
"""Connections that have shown no token yet: above the first number the oldest is closed, if it had time to show one; above
the second no other is let in."""
SHOW_SECONDS = 0.5
"""How long a connection may take to show a token while too many others wait; the CLI's head comes in milliseconds."""
PER_SOURCE = 256
"""Connections of one address, but for this machine's own: all its runs come from there."""


class Gone(ConnectionError):
    """The other side closed the connection, or was cut off."""


class Connection(asyncio.Protocol):
    """One connection. `on_lost` is called once, when it is gone."""

    def __init__(self, on_made: Callable[[Connection], None] | None = None) -> None:
        self._on_made = on_made
        self.on_lost: Callable[[], None] | None = None
        self.transport: asyncio.Transport
        self.source = ""
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
        peer = transport.get_extra_info("peername")
        self.source = str(peer[0]) if peer else ""
        self.made = asyncio.get_running_loop().time()
        if self._on_made:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Keep what came, until it is taken."""
        self._buffer += data
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


class Door:
    """Counts connections by where they come from, and bounds those that have shown no token yet."""

    def __init__(self, strangers: int = STRANGERS, most: int = MOST_STRANGERS, per_source: int = PER_SOURCE) -> None:
        self._usual = strangers
        self._most = most
        self._per_source = per_source
        self._strangers: dict[Connection, None] = {}
        self._sources: Counter[str] = Counter()

    def enter(self, connection: Connection) -> bool:
        """Let a connection in, or close it; where too many wait at the door, the one that waited longest goes."""
        source = connection.source
        full = len(self._strangers) >= self._most
        if full or (self._sources[source] >= self._per_source and not _own(source)):
            connection.transport.abort()
            return False
        self._sources[source] += 1
        self._strangers[connection] = None
        oldest = next(iter(self._strangers))
        if len(self._strangers) > self._usual and connection.made - oldest.made > SHOW_SECONDS:
            del self._strangers[oldest]
            oldest.transport.abort()
        return True

    def know(self, connection: Connection) -> None:
        """Take a connection for one of a run."""
        self._strangers.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that was let in."""
        self._strangers.pop(connection, None)
        self._sources[connection.source] -= 1
        if self._sources[connection.source] <= 0:
            del self._sources[connection.source]


def _own(source: str) -> bool:
    try:
        return ipaddress.ip_address(source).is_loopback
    except ValueError:
        return False
