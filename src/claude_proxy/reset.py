"""Makes a runner as it was at its start: no process but its own, nothing in any place that can be written to.

Every process of a run is below the runner, whatever it did, for orphans become its children. With the last process go its
sockets, ports and open files; a file that was removed and held open is gone with them, which the file system's own count
of inodes proves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from claude_proxy import folders, keeper

WRITABLE = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")  # named to be emptied
"""Besides the folder for work: where a container without a writable root has room, whether a CLI may write there or not."""
SYSV = tuple(Path("/proc/sysvipc", name) for name in ("shm", "msg", "sem"))
SETTLE_SECONDS = 2.0
"""How long the kernel may take to free what the last process held: it frees descriptors in flight in rounds."""


class UncleanError(Exception):
    """Something of a run is left."""


def clean(work: Path) -> None:
    """End every process below this one, and empty every place; raises UncleanError."""
    keeper.end_all()
    places = [work, *(Path(each) for each in WRITABLE if os.access(each, os.W_OK | os.X_OK))]
    for place in places:
        _empty(place)
    end = time.monotonic() + SETTLE_SECONDS
    while left := next(_left(places), ""):
        if time.monotonic() > end:
            raise UncleanError(left)
        time.sleep(0.02)
        for place in places:
            _empty(place)


def _empty(place: Path) -> None:
    """Remove everything of ours below a place."""
    for entry in filter(_ours, place.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir() and not entry.is_symlink():
                folders.clear(entry)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()


def _left(places: Iterable[Path]) -> Iterator[str]:
    """Yield what is left, in words."""
    for place in places:
        own = [entry.name for entry in place.iterdir() if _ours(entry)]
        if own:
            yield f"{len(own)} entries in {place}"
        # Of a file system of its own also what has no name any more.
        elif os.path.ismount(place) and place not in map(Path, WRITABLE) and _inodes(place) > 1:
            yield f"files without a name in {place}"
    for table in SYSV:
        with contextlib.suppress(OSError):
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
            # Whoever shares this namespace, as on a host, may have some; ours are told by the owner.
            if any(str(os.getuid()) in row for row in rows):
                yield f"an entry in {table}"


def _ours(entry: Path) -> bool:
    try:
        return entry.lstat().st_uid == os.getuid()
    except OSError as error:
        return error.errno != errno.ENOENT


def _inodes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_files - found.f_ffree
