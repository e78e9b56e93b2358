"""What the container's control group counts of all processes together, in either version of control groups."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PIDS = (("pids.current", "pids.max"), ("pids/pids.current", "pids/pids.max"))
MEMORY = (
    ("memory.current", "memory.max", "memory.stat"),
    ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes", "memory/memory.stat"),
)
"""Where the use, the limit and the details stand: in the second version, and in the first."""
CACHED = re.compile(rb"^((?:in)?active_file|slab_reclaimable) (\d+)$", re.MULTILINE)
CACHED_BELOW = re.compile(rb"^total_((?:in)?active_file) (\d+)$", re.MULTILINE)
"""What the kernel takes back when it is short. Only the first version tells apart what is in groups below."""
UNLIMITED = 1 << 60
"""The first version says so by a number near 2^63."""


class Resource:
    """One limited resource: its `limit`, and how much of it is used now. The files stay open, so that asking is cheap."""

    def __init__(self, limit: int, files: list[int]) -> None:
        self.limit = limit
        self._files = files

    def used(self) -> int:
        """Return how much all processes of the container use."""
        return int(os.pread(self._files[0], 32, 0))

    def kept(self) -> int:
        """Return how many bytes of memory are used that the kernel cannot take back."""
        details = os.pread(self._files[1], 16_384, 0)
        cached = CACHED_BELOW.findall(details) or CACHED.findall(details)
        return self.used() - sum(int(size) for _, size in cached)


def find(places: Iterable[tuple[str, ...]], root: Path = ROOT) -> Resource | None:
    """Return the first resource of `places` that has a limit, or None."""
    for used, limit, *details in places:
        with contextlib.suppress(OSError):
            told = (root / limit).read_text().strip()
            if told.isdigit() and int(told) < UNLIMITED:
                files = [os.open(root / each, os.O_RDONLY | os.O_CLOEXEC) for each in (used, *details)]
                return Resource(int(told), files)
    return None
