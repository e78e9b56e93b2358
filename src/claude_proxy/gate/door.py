"""The gate's door: who may have a connection, how many, and for how long without showing a token.

What is not let in is closed before anything is made for it: that costs a fiftieth of a connection, and is what keeps a flood of one
run from taking the time of the others. A run in a runner has an address of its own; runs on this machine share one, which
has no bounds of its own but that on connections without a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable

from claude_proxy.gate.connection import Connection

STRANGERS, MOST_STRANGERS = 1024, 4096
"""Connections that have shown no token yet: above the first number the oldest is closed, if it had time to show one; above
the second no other is let in."""
SHOW_SECONDS, LONGEST_SECONDS = 0.5, 5.0
"""How long a connection may take to show a token, while too many others wait and otherwise; the CLI takes milliseconds."""
PER_SOURCE = 128
"""Connections of one address: twice what a run may have."""
RATE, BURST = 50.0, 200.0
"""New connections of one address, per second and at once; the CLI keeps its own for as long as it can."""
SOURCES = 4096
"""How many addresses are remembered."""
AT_ONCE = 64
"""Connections that are looked at before the others have their turn."""
FULL_SECONDS = 0.1
"""How long to wait where the process has no file descriptor left."""
AT_ONCE_CLOSED = struct.pack("ii", 1, 0)
"""SO_LINGER of socket(7): closed without a goodbye, and nothing is left of it in the kernel."""


class Door:
    """Takes connections from a listening socket, and calls `begun` with each whose first byte is here."""

    def __init__(self, begun: Callable[[Connection], None]) -> None:
        self._begun = begun
        self._strangers: dict[Connection, None] = {}
        self._sources: Counter[str] = Counter()
        self._allowances: dict[str, tuple[float, float]] = {}
        self._making: set[asyncio.Task[None]] = set()

    def open(self, listener: socket.socket) -> None:
        """Begin to take connections."""
        listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener.fileno(), self._take, listener)
        self._sweep()

    def know(self, connection: Connection) -> None:
        """Take a connection for one of a run."""
        self._strangers.pop(connection, None)

    def admits(self, source: str, now: float) -> bool:
        """Whether another connection of this address is let in; it counts when it is."""
        if len(self._strangers) + len(self._making) >= MOST_STRANGERS:
            return False
        if not _own(source):
            left, since = self._allowances.get(source, (BURST, now))
            left = min(BURST, left + (now - since) * RATE)
            if len(self._allowances) >= SOURCES:
                self._allowances.clear()
            self._allowances[source] = (max(0.0, left - 1), now)
            if left < 1 or self._sources[source] >= PER_SOURCE:
                return False
        self._sources[source] += 1
        return True

    def leave(self, source: str) -> None:
        """Count one connection of this address less."""
        self._sources[source] -= 1
        if self._sources[source] <= 0:
            del self._sources[source]

    def _take(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                client, address = listener.accept()
            except BlockingIOError:
                return
            except OSError:
                self._rest(listener)
                return
            if self.admits(address[0], self._loop.time()):
                task = self._loop.create_task(self._make(client, address[0]))
                self._making.add(task)
                task.add_done_callback(self._making.discard)
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE_CLOSED)
                client.close()

    def _rest(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(FULL_SECONDS, self._loop.add_reader, listener.fileno(), self._take, listener)

    async def _make(self, client: socket.socket, source: str) -> None:
        client.setblocking(False)
        connection = Connection()
        connection.on_made = lambda: self._wait(connection)
        connection.on_begun = lambda: self._begun(connection)

        def lost() -> None:
            self._strangers.pop(connection, None)
            self.leave(source)

        connection.on_lost = lost
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(lambda: connection, client)
            return
        client.close()
        lost()

    def _wait(self, connection: Connection) -> None:
        """Have a connection wait for its token; where too many do, the one that waited longest goes."""
        self._strangers[connection] = None
        oldest = next(iter(self._strangers))
        if len(self._strangers) > STRANGERS and connection.made - oldest.made > SHOW_SECONDS:
            self._close(oldest)

    def _sweep(self) -> None:
        """Close what has waited too long."""
        now = self._loop.time()
        while self._strangers:
            oldest = next(iter(self._strangers))
            if now - oldest.made < LONGEST_SECONDS:
                break
            self._close(oldest)
        self._loop.call_later(SHOW_SECONDS, self._sweep)

    def _close(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        connection.transport.abort()


def _own(source: str) -> bool:
    """Whether an address is the one by which processes of this machine reach it, when they choose none."""
    return source in ("127.0.0.1", "::1")
