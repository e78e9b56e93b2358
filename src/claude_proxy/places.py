"""Where a CLI runs: in this container beside the proxy, or in a runner. A request gets a place, and leaves it clean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from claude_proxy.bounds import Bounds
from claude_proxy.conversation import Ask
from claude_proxy.folders import Folder, fill
from claude_proxy.process import Command, Processes, Running
from claude_proxy.slots import Slots
from claude_proxy.spares import Spare, Spares
from claude_proxy.workspace import Workspace, remove


class Place(Protocol):
    """Where one CLI runs. `lost` tells that it went away with all that was in it."""

    folder: Folder
    bounds: Bounds
    lost: bool

    async def start(self, command: Command) -> Running:
        """Make the folder and start a process in it; raises OSError."""

    async def leave(self) -> None:
        """Remove what is left; call it once the process has ended."""


class Places(Protocol):
    """All places. `taken` are used by requests, `waiting` requests wait for one."""

    @property
    def taken(self) -> int:
        """How many requests run."""

    @property
    def waiting(self) -> int:
        """How many requests wait."""

    def take(self, ask: Ask) -> AbstractAsyncContextManager[tuple[Place, Spare | None]]:
        """Hold a place for a request, with a CLI that waits there if one fits; raises ApiError where none gets free."""

    def reserve(self) -> Place | None:
        """Return a place for something else, if one is free and no request waits for it."""


class Here:
    """A folder of this container."""

    lost = False

    def __init__(self, processes: Processes, folder: Folder, bounds: Bounds) -> None:
        self._processes = processes
        self.folder = folder
        self.bounds = bounds

    async def start(self, command: Command) -> Running:
        """Make the folder and start a process in it; raises OSError."""
        await asyncio.to_thread(fill, self.folder, command.files)
        return await self._processes.start(command)

    async def leave(self) -> None:
        """Remove the folder."""
        await asyncio.to_thread(remove, self.folder)


class Local:
    """Folders of this container, and as many requests at once as it has slots."""

    def __init__(
        self, processes: Processes, workspace: Workspace, slots: Slots, spares: Spares, bounds: Bounds
    ) -> None:
        self._processes, self._workspace, self._slots, self._spares = processes, workspace, slots, spares
        self._bounds = bounds

    @property
    def taken(self) -> int:
        """How many requests run."""
        return self._slots.taken

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._slots.waiting

    @asynccontextmanager
    async def take(self, ask: Ask) -> AsyncIterator[tuple[Place, Spare | None]]:
        """Hold a slot; raises ApiError 429 when the queue is full or too slow."""
        async with self._slots.take():
            spare = self._spares.take(ask)
            yield (spare.place if spare else self.reserve()), spare

    def reserve(self) -> Place:
        """Return a new folder."""
        return Here(self._processes, self._workspace.reserve(), self._bounds)
