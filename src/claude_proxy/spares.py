"""CLIs that were started ahead and wait for their input, so that a request need not wait for one to start.

Each has a folder and a sandbox of its own and serves one request. It can take any request that needs nothing but
another model or a system prompt; both can still be told to it, by the CLI's own control messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from claude_proxy.conversation import Ask
from claude_proxy.process import Running
from serving.errors import ApiError

if TYPE_CHECKING:
    from claude_proxy.places import Place

log = logging.getLogger("claude_proxy.spares")


@dataclass(frozen=True, eq=False)
class Spare:
    """A waiting CLI, the place where it works, the model that it was started for, and the token that it shows the gate."""

    place: Place
    running: Running
    model: str
    token: str = ""


class Spares:
    """At most `count` of them, none older than `seconds`. `start` makes one where there is room, `discard` ends one.

    One that nobody has room for any more, because requests wait (`wanted`), is ended as soon as it is there.
    """

    def __init__(
        self,
        count: int,
        seconds: float,
        start: Callable[[], Awaitable[Spare | None]],
        discard: Callable[[Spare], Awaitable[None]],
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._count = count
        self._seconds = seconds
        self._start = start
        self._discard = discard
        self._wanted = wanted
        self._waiting: dict[Spare, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, ask: Ask) -> Spare | None:
        """Return a CLI for this request, if there is one that can serve it."""
        if not fits(ask):
            return None
        for spare in list(self._waiting):
            self._waiting.pop(spare).cancel()
            if spare.running.exited is None:
                return spare
            self._later(self._discard(spare))
        return None

    def give_up(self) -> int:
        """End one, because its place is needed; return how many there were, or are about to be: 1 at most."""
        if self._waiting:
            self.drop(next(iter(self._waiting)).place)
            return 1
        return min(1, self._starting)

    def stop(self) -> None:
        """Start no more."""
        self._count = 0

    def drop(self, place: Place) -> None:
        """End the one in this place, if there is one."""
        for spare in [each for each in self._waiting if each.place is place]:
            self._waiting.pop(spare).cancel()
            self._later(self._discard(spare))

    def replenish(self) -> None:
        """Start what is missing; call it when a request ends, so that it delays none."""
        for _ in range(self._count - len(self._waiting) - self._starting):
            self._starting += 1
            self._later(self._add())

    async def close(self) -> None:
        """Start no more and end those that wait."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        for handle in self._waiting.values():
            handle.cancel()
        await asyncio.gather(*self._tasks, *(self._discard(each) for each in self._waiting), return_exceptions=True)
        self._waiting.clear()

    async def _add(self) -> None:
        try:
            spare = await self._start()
        except (OSError, ApiError) as error:
            log.warning("no CLI could be started ahead: %s", error)
            return
        finally:
            self._starting -= 1
        if spare is None:
            return
        if self._wanted() or self._closed:
            await self._discard(spare)
            return
        handle = asyncio.get_running_loop().call_later(self._seconds, self._expire, spare)
        self._waiting[spare] = handle

    def _expire(self, spare: Spare) -> None:
        if self._waiting.pop(spare, None):
            self._later(self._discard(spare))
            self.replenish()

    def _later(self, work: Awaitable[None]) -> None:
        async def do() -> None:
            await work

        if not self._closed:
            task = asyncio.create_task(do())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def fits(ask: Ask) -> bool:
    """Tell whether a CLI that was started without knowing this request can serve it."""
    return not (ask.history or ask.tools or ask.servers or ask.max_tokens)
