"""Whether a process that we once knew by its number still runs, as Linux tells it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (proc(5), stat, field 22): a recycled number has another start.

    None when all of it has ended. Its first thread may be a zombie while others still hold its files and ports (field 20
    counts them).
    """
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # one that was started by this very process would stay a zombie
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" and int(fields[16]) <= 1 else int(fields[18])


def group(leader: int) -> list[int]:
    """The processes of a process group that have not ended; the leader alone where there is no /proc."""
    found = []
    if not Path("/proc/self/stat").exists():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, 0)
            found.append(leader)
        return found
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, number = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(number) == leader and state not in "ZX":
            found.append(int(folder.name))
    return found
