"""At most so many CLIs at once, a short queue before them, and a clear refusal after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from claude_proxy import failures


class Slots:
    """`limit` callers at once; `queue` more may wait, for `seconds` at most. `taken` and `waiting` count them."""

    def __init__(self, limit: int, queue: int, seconds: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._queue = queue
        self._seconds = seconds
        self.taken = 0
        self.waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Hold a slot; raises ApiError 429 when the queue is full or too slow."""
        await self._acquire()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._free.release()

    async def _acquire(self) -> None:
        if self._free.locked() and self.waiting >= self._queue:
            raise failures.busy()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._seconds if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError as error:
            raise failures.busy() from error
        finally:
            self.waiting -= 1
