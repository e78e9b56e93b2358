"""How much disk a request's folder takes, part by part (see `meter`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

LEVELS = 32
"""How deep it looks, with a file held open for each level."""
ENTRY = 4096
"""Bytes that a file counts for merely existing: so there is a bound on their number, too."""
BLOCK = 512
"""What stat(2) counts in."""


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
