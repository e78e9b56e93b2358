"""How many times in a row a service gave its probe no answer, kept in a small file from one probe to the next.

Failures count once the service has answered, so that no start is cut short and no wrong address ends anything. Where
somebody listens without an answer they count without that, too, when it is older than any start takes.
Like the probe this loads little.
"""

from __future__ import annotations

import os

START_SECONDS = 60.0
"""What takes longer before its first answer hangs."""
WELL, ILL, SILENT, ABSENT = "well", "ill", "silent", "absent"
"""Outcomes of a probe: the right answer; another, so that it lives; none at all; nobody listens."""


def place(name: str) -> str:
    """Return the file's path, in a folder that a container empties at its start at best; it need not."""
    return f"{os.environ.get('TMPDIR', '/tmp')}/serving-probe-{os.getuid()}-{name}"


def add(path: str, outcome: str, life: tuple[int, float]) -> int:
    """Count a probe and return how many in a row were in vain. Raises OSError.

    `life` is when process 1 began, as a number that no other life has, and for how many seconds it lives.
    """
    born, seconds = life
    before = _read(path, born)
    if outcome == WELL:
        count = 0
    elif outcome == ILL:
        return before or 0
    elif before is None and (outcome == ABSENT or seconds < START_SECONDS):
        return 0
    else:
        count = (before or 0) + 1
    if count != before:
        _write(path, b"%20d %10d\n" % (born, count))
    return count


def life(pid: int = 1) -> tuple[int, float]:
    """Return when a process began, in clock ticks since the machine's start, and its age in seconds. Raises OSError."""
    born = int(_content(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])
    return born, float(_content("/proc/uptime").split()[0]) - born / os.sysconf("SC_CLK_TCK")


def _read(path: str, born: int) -> int | None:
    """Return the count that is kept, or None if there was no answer yet in this life of process 1."""
    try:
        known, count = map(int, _content(path).split())
    except (OSError, ValueError):
        return None
    return count if known == born and 0 <= count < 1_000_000 else None


def _write(path: str, line: bytes) -> None:
    # Written over in place, never cut: that works on a full disk, too.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
