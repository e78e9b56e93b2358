"""A folder for every request, private to it and removed after it; and what a crash left behind is swept."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from claude_proxy.folders import Folder, clear
from serving.settings import SettingsError, reason

log = logging.getLogger("claude_proxy.workspace")

LOCK = "lock"
PREFIX = "proxy-"


class Workspace:
    """The folder of this process below `root`, with one folder per request in it.

    Several processes share a root, during hot reload for one. Each holds a lock on its own folder for as long as it
    lives, however it ends; so a folder whose lock is free belongs to nobody any more.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _alone(root):
                _sweep(root)
                self._path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
                self._lock = os.open(self._path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fault = f"cannot write to {root}: {reason(error)}; name a folder that uid {os.getuid()} may write to"
            raise SettingsError([f"CLAUDE_PROXY_WORKSPACE: {fault}"]) from error

    def reserve(self) -> Folder:
        """Return the place of the next request; nothing is there yet."""
        # No CLI can list this place, and it could not guess the name of another's folder either.
        return Folder(self._path / secrets.token_hex(16))

    def close(self) -> None:
        """Remove everything and give the lock back."""
        with contextlib.suppress(FileNotFoundError):
            _clear_all(self._path)
        os.close(self._lock)


def remove(folder: Folder) -> None:
    """Remove the folder of a request; what cannot be removed is logged, and swept by the next start."""
    clear(folder.root)
    if folder.root.exists():
        log.warning("a request's folder could not be removed", extra={"folder": str(folder.root)})


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other starting processes out: one of them could sweep a folder that is not locked yet."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _sweep(root: Path) -> None:
    for left in root.glob(f"{PREFIX}*"):
        try:
            lock = os.open(left / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            # No folder of ours, or not ours to remove.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            log.info("removing what an earlier process left", extra={"folder": str(left)})
            _clear_all(left)
        finally:
            os.close(lock)


def _clear_all(place: Path) -> None:
    """Remove the folder of a process; its lock goes last, so that a later sweep finds what could not be removed."""
    for path in place.iterdir():
        if path.name != LOCK:
            clear(path)
    if [path.name for path in place.iterdir()] in ([], [LOCK]):
        clear(place)
    else:
        log.warning("a folder could not be removed", extra={"folder": str(place)})
