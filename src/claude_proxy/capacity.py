"""How many CLIs this machine, or this container, has the memory for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

CLI_BYTES = 256 << 20
"""What one CLI is counted as. Measured (2.1.314): 147 MB resident while it streams, 80 MB of that its own, which grows
with the conversation; what its tools start comes on top."""
MOST = 64
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container's limit stands: in the second version of cgroups, and in the first."""
MACHINE = Path("/proc/meminfo")


def processes(memory: int) -> int:
    """Return how many CLIs may run at once in so many bytes."""
    return max(1, min(MOST, memory // CLI_BYTES))


def memory(cgroups: Iterable[Path] = CGROUPS, machine: Path = MACHINE) -> int:
    """Return the bytes that we may use: the container's limit, or the machine's memory where there is none."""
    lines = dict(line.split(":", 1) for line in machine.read_text().splitlines() if ":" in line)
    total = int(lines["MemTotal"].split()[0]) * 1024
    limits = [total]
    for cgroup in cgroups:
        with contextlib.suppress(OSError):
            limit = cgroup.read_text().strip()
            limits += [int(limit)] if limit.isdigit() else []
    return min(limits)
