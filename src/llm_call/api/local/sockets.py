"""A folder for the sockets of one gateway's models, which nobody else may enter."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "llm-call-local-"
LONGEST = 100
"""Bytes of a socket's path, a little less than the kernel allows."""
SHORT = Path("/tmp")
"""Where the folder is made if the path of that for temporary files is too long."""
YOUNG_SECONDS = 60.0
"""A folder of this age may be one that is just being made."""


class Sockets:
    """Makes the folder, and removes those that nobody holds: gateways that were killed left them."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        if len(os.fsencode(parent)) + len(PREFIX) + 20 > LONGEST:
            parent = SHORT
        for old in parent.glob(f"{PREFIX}*"):
            _remove_stale(old)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._numbers = itertools.count(1)

    def next(self) -> Path:
        """Return a path that was not used before. Its end tells llama-server that it is a socket."""
        return self._folder / f"{next(self._numbers)}.sock"

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def _remove_stale(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else's, in use, or gone meanwhile
        if time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
            return
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)
