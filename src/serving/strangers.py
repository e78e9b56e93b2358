"""Connections whose client has shown no key yet: how long each may take, and which of them makes room for the next.

A client has a key or not only once its head is there, so what comes before that cannot be told apart. Newcomers are
therefore always let in, and whoever has been silent longest goes: a client with a key is known within milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

SECONDS = 5.0
"""How long a client without a key may take for a head, and be silent in a body; twice that for a whole request."""
LINGER_SECONDS = 2.0
"""How long a client that was refused may take to read why."""
LINGER_BYTES = 32 * 1024 * 1024
"""How much is read and thrown away meanwhile: a body of the largest size that is taken, sent before the answer is read."""
GRACE_SECONDS = 1.0
"""How young a connection is not closed for another: its head may be in the kernel already."""
SHARE = 2
"""One for so many connections of clients with a key is the most; a quarter of these may be older than a moment."""

LEAST = 256
"""As many at least: those that come in one moment, before any of their heads can be read."""


class Connection(Protocol):
    """What is asked of a connection."""

    made: float

    @property
    def source(self) -> str:
        """The client's address."""

    def waits(self, now: float) -> bool:
        """Tell whether it is the client's turn."""

    def drop(self) -> None:
        """Close at once."""


@dataclass(frozen=True)
class Room:
    """How many connections without a key there may be: `most` in all, `old` of them longer than GRACE_SECONDS."""

    most: int
    old: int

    @classmethod
    def beside(cls, connections: int) -> Room:
        """Return what goes with so many connections of clients with a key; it takes none of theirs."""
        most = max(connections // SHARE, LEAST)
        return cls(most, most // 4)


class Strangers:
    """All connections of a server without a key, by their address, the oldest of each first."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._sources: dict[str, dict[Any, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._sources.get(connection.source, ())

    def add(self, connection: Connection, now: float) -> bool:
        """Take one in; the oldest of the address with the most makes room. False if there is none to be made."""
        if self._count >= self._room.old and not self._make_room(now):
            return False
        self._sources.setdefault(connection.source, {})[connection] = None
        self._count += 1
        return True

    def discard(self, connection: Connection) -> None:
        """Let go of one that has shown a key or is closed."""
        peers = self._sources.get(connection.source)
        if peers and connection in peers:
            del peers[connection]
            self._count -= 1
            if not peers:
                del self._sources[connection.source]

    def _make_room(self, now: float) -> bool:
        """Drop the oldest that waits for its client and is no longer young; if all the room is taken, any that can be."""
        crowd = max(self._sources.values(), key=len)
        full = self._count >= self._room.most
        victim = next((each for each in crowd if each.waits(now)), None)
        if victim is None and full:
            victim = next((each for each in crowd if now - each.made > GRACE_SECONDS), None)
        if victim is not None and (full or now - victim.made > GRACE_SECONDS):
            self.discard(victim)
            victim.drop()
            return True
        return not full
