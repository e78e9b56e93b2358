"""One lock for whatever changes what the machine shares: unpacking, starting, stopping, bootstrapping."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipyard import console
from shipyard.engine.types import home
from shipyard.errors import EngineMissing


@contextmanager
def lock(what: str, path: Path | None = None) -> Iterator[None]:
    """Hold the machine's lock, or the one at ``path``; a second caller waits and says for whom.

    The kernel frees it when its owner dies. Raises EngineMissing when the file cannot be written.
    """
    path = path or home() / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        msg = f"{path.parent} is not writable ({problem.strerror}); set SHIPYARD_HOME to a folder of yours"
        raise EngineMissing(msg) from problem
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 100, 0).decode(errors="replace").strip()
            console.info(f"waiting for another invoke ({owner or 'busy'})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()}, {what}".encode(), 0)
        yield
    finally:
        os.close(handle)
