"""Work that has to be finished whatever happens to the request that began it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Cleanups:
    """Runs such work in tasks of its own, so that cancelling a request cannot cut it short."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; when the caller is cancelled meanwhile, it goes on without the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def settled(self, seconds: float) -> None:
        """Wait until everything is done, so many seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
