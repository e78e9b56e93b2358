"""The processes below one, and what they use together; read from /proc, and ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

RESIDENT = re.compile(rb"^(RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
SHARED_OUT = re.compile(rb"^(Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB$", re.MULTILINE)
"""The same where memory that several processes have in common is shared out among them. Files are left out of both:
their memory can be taken back."""

LISTED = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether this kernel tells the children of a process; one without that costs a look at every process there is."""


class Memory(NamedTuple):
    """Bytes of some processes: those of their own, and those of shared memory."""

    own: int = 0
    shared: int = 0


def kill(pids: Iterable[int]) -> None:
    """Kill these processes; who has ended already, or is not ours, is left alone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(ancestor: int, spared: Container[int] = ()) -> list[int]:
    """Return the processes below `ancestor`, by the parents that /proc tells now; not its children that are `spared`."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  # one listing, no object per process
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid for pid in children.get(ancestor, ()) if pid not in spared]
    for pid in found:
        found += children.get(pid, ())
    return found


def below(ancestor: int) -> dict[int, int]:
    """Return the processes below `ancestor` with the number of their threads.

    It looks at no other process, so it costs little however many run here. One that moves meanwhile may be missed.
    """
    found: dict[int, int] = {}
    waiting = [ancestor] if LISTED else [ancestor, *descendants(ancestor)]
    for pid in waiting:
        with contextlib.suppress(OSError):
            threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
            found[pid] = len(threads)
            for thread in threads if LISTED else ():
                with contextlib.suppress(OSError):
                    waiting += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    found.pop(ancestor, None)
    return found


def resident(pids: Iterable[int]) -> Memory:
    """Return what these processes have in memory or swap; what they have in common counts several times."""
    return _sum(_figures(pid, "status", RESIDENT) or Memory() for pid in pids)


def shared_out(pids: Iterable[int]) -> Memory:
    """Return the same with everything counted once. That takes far longer."""
    # A process may hide these figures, but gains nothing by it.
    return _sum(_figures(pid, "smaps_rollup", SHARED_OUT) or resident([pid]) for pid in pids)


def without_file(pids: Iterable[int]) -> Iterator[int]:
    """Yield, for each file that these processes have open, the bytes of memory behind it if memfd_create made it.

    Each such file counts once, every other 0 bytes.
    """
    seen: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                yield _behind(entry.path, seen)


def _behind(path: str, seen: set[int]) -> int:
    with contextlib.suppress(OSError):
        if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115
            file = os.stat(path)  # noqa: PTH116
            if file.st_ino not in seen:
                seen.add(file.st_ino)
                return file.st_blocks * 512
    return 0


def _sum(figures: Iterable[Memory]) -> Memory:
    found = list(figures)
    return Memory(sum(each.own for each in found), sum(each.shared for each in found))


def _figures(pid: int, name: str, pattern: re.Pattern[bytes]) -> Memory | None:
    with contextlib.suppress(OSError):
        found = {key: 1024 * int(value) for key, value in pattern.findall(_read(f"/proc/{pid}/{name}"))}
        shared = sum(value for key, value in found.items() if key.endswith(b"Shmem"))
        return Memory(sum(found.values()) - shared, shared)
    return None


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 65_536)
    finally:
        os.close(file)
