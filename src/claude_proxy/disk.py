"""How much disk a request's folder takes, measured in small steps, so that its keeper never stays away for long."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

STEP_SECONDS, REST_SECONDS = 0.005, 0.1
"""How long one step takes, and how long the keeper rests after it."""
ROUND_SECONDS = 0.5
"""Between the end of one measurement and the beginning of the next."""
LEVELS = 32
"""How deep it looks, with a file held open for each level."""
ENTRY = 4096
"""Bytes that a file counts for merely existing: so there is a bound on their number, too."""
BLOCK = 512
"""What stat(2) counts in."""


class Meter:
    """Measures one folder again and again. `rest` is how many seconds to wait before the next step."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sizes: Iterator[int] = iter(())
        self._total = 0
        self.rest = ROUND_SECONDS

    def measure(self) -> int:
        """Take one step; return the bytes found so far in this round."""
        end = time.monotonic() + STEP_SECONDS
        for size in self._sizes:
            self._total += size
            if time.monotonic() > end:
                self.rest = REST_SECONDS
                return self._total
        total, self._total = self._total, 0
        self._sizes = sizes(self._folder)
        self.rest = ROUND_SECONDS
        return total


def sizes(folder: str) -> Iterator[int]:
    """Yield the bytes of each entry below a folder, of a file with several names once; what is shut is left out."""
    return _sizes(folder, None, LEVELS, set())


def _sizes(name: str, parent: int | None, levels: int, seen: set[int]) -> Iterator[int]:
    # By names within open folders, and never through a link: a tool may exchange any part of a path.
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    first = found.st_nlink == 1 or found.st_ino not in seen
                    seen.update([found.st_ino] if found.st_nlink > 1 else [])
                    yield ENTRY + (found.st_blocks * BLOCK if first else 0)
                    if levels and entry.is_dir(follow_symlinks=False):
                        yield from _sizes(entry.name, folder, levels - 1, seen)
    finally:
        os.close(folder)
