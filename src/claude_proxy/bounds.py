"""What one request may use: processes and threads, memory, disk. Its keeper holds it to that.

Every new process or thread waits for the keeper's word, so nothing that forks outruns it; and while a request is being
ended the keeper gives none. Memory and disk are looked at from time to time. To end a request takes no new process.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from claude_proxy import cgroup, disk, tree
from claude_proxy.meter import Meter

PIDS, MEMORY, CONTAINER, DISK = NAMES = "pids", "memory", "container", "disk"
"""Names of bounds, as the keeper tells them; CONTAINER: its memory was all but used up, and this request had tools."""
RESERVE = 64
"""Of the container's processes: for the proxy, its launcher, the keepers, health probes, and what asks just now."""
LOOK_SECONDS, SOON_SECONDS, CALM_SECONDS = 0.1, 0.02, 1.0
"""Between two looks at the memory: usually, above half of the bound, without tools. 2 processors fill 0.5 GB in 0.1 s."""
ROUND_SECONDS = 0.5
"""Between two measurements of the disk."""
EFFORT = 20
"""The keeper rests so many times as long as a look took of its processor; what it waited for one is not its work."""
NEARLY_USED = 0.9, 0.97
"""Parts of the container's memory from which a request with tools ends: one that uses its whole bound, and any."""


@dataclass(frozen=True)
class Bounds:
    """Of one request: processes and threads together, bytes of memory, bytes of files."""

    pids: int = 128
    memory: int = 1280 << 20
    disk: int = 2 << 30


def largest_file(disk: int) -> int:
    """Return the bytes of the largest file: less than all files may have, so that a request outlives its tool's EFBIG."""
    return disk - disk // 8


def share(limit: int, requests: int) -> int:
    """Return how many processes each of so many requests can have at the same time in a container with that limit."""
    return max(1, (limit - RESERVE) // requests)


def crowded(own: int, used: int, limit: int, requests: int) -> bool:
    """Whether a request that has `own` processes gets no more just now, because the container has `used` of `limit`.

    From half of the limit on there is none beyond the share; so whoever has less finds room.
    """
    return used >= limit - RESERVE or (used >= limit // 2 and own >= share(limit, requests))


def exhausted(own: int, bound: int, used: int, limit: int) -> bool:
    """Whether a request with `own` bytes has to end, because the container's memory ends; the largest goes first."""
    whole, none = NEARLY_USED
    return used > limit * (none - (none - whole) * min(1.0, own / bound))


class Guard:
    """Watches over the request of the job; made by its keeper once the CLI has started."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._bounds = Bounds(**job["bounds"])
        self._requests: int = job["requests"]
        self._tools: bool = job["tools"]
        self._gpu: bool = job["gpu"]
        self._pids = cgroup.find(cgroup.PIDS)
        self._memory = cgroup.find(cgroup.MEMORY) if self._tools else None
        self._keeper = os.getpid()
        self._count = self._bounds.pids
        self._rest = LOOK_SECONDS if self._tools else CALM_SECONDS
        self._next_look = time.monotonic() + self._rest
        self._disk = Meter(partial(disk.sizes, job["folder"]), ROUND_SECONDS)
        self._next_walk = self._next_look if self._tools else math.inf
        self._unfiled = Meter(self._parts_without_file, LOOK_SECONDS)
        self._without_file = 0
        self._next_count = self._next_look if self._gpu else math.inf

    def fork(self) -> int | None:
        """Decide about one more process or thread: 0, the errno to refuse it with, or None: the request has to end."""
        # Usually the count is no more than a sum; only where it matters are the processes really counted.
        if self._refused():
            self._count = sum(tree.below(self._keeper).values())
            if self._count >= self._bounds.pids:
                return None
            if self._refused():
                return errno.EAGAIN
        self._count += 1
        return 0

    def pause(self) -> float:
        """Return the seconds until `look` has something to do."""
        return max(0.0, min(self._next_look, self._next_walk, self._next_count) - time.monotonic())

    def look(self) -> str:
        """Look at what is due now; return the name of the bound that was passed, or nothing."""
        now = time.monotonic()
        over = ""
        if now >= self._next_look:
            begun = time.thread_time()
            over = self._look_at_memory()
            self._next_look = time.monotonic() + max(self._rest, EFFORT * (time.thread_time() - begun))
        elif now >= self._next_walk:
            over = DISK if self._disk.measure() > self._bounds.disk else ""
            self._next_walk = time.monotonic() + self._disk.rest
        elif now >= self._next_count:
            # In steps of its own: whoever has very many files open is not to put off the look at all other memory.
            self._without_file = max(self._unfiled.measure(), self._unfiled.whole)
            self._next_count = time.monotonic() + self._unfiled.rest
        return over

    def _refused(self) -> bool:
        if self._count >= self._bounds.pids:
            return True
        pids = self._pids
        return pids is not None and crowded(self._count, pids.used(), pids.limit, self._requests)

    def _look_at_memory(self) -> str:
        bound = self._bounds.memory
        pids = tree.below(self._keeper)
        own = self._all(tree.resident(pids))
        if own > bound:
            own = self._all(tree.shared_out(pids))
        if self._tools:
            self._rest = SOON_SECONDS if own > bound // 2 else LOOK_SECONDS
        if own > bound:
            return MEMORY
        memory = self._memory
        if memory is None or memory.used() <= memory.limit * NEARLY_USED[0]:
            return ""
        # Where it is the only request of its container, nobody else can have used the memory up.
        named = CONTAINER if self._requests > 1 else MEMORY
        return named if exhausted(own, bound, memory.kept(), memory.limit) else ""

    def _parts_without_file(self) -> Iterator[int]:
        yield from tree.without_file(tree.below(self._keeper))

    def _all(self, found: tree.Memory) -> int:
        # What has no file may be mapped, too: it counts once.
        return found.own + max(found.shared, self._without_file)
