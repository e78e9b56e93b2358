"""Ends a service that hangs: SIGKILL for whoever listens at its port, so that its container starts it anew."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

INITS = ("docker-init", "tini", "catatonit", "dumb-init")
"""What engines and images run as process 1, to pass on signals and to reap."""
LOOPBACK = frozenset(
    {
        "00000000",
        "0100007F",
        "00000000000000000000000000000000",
        "00000000000000000000000001000000",
        "0000000000000000FFFF00000100007F",
    }
)
"""Addresses in /proc/net/tcp and tcp6 that a connection to loopback reaches: any, 127.0.0.1, ::, ::1."""
LISTENS = "0A"
"""The state of a listening socket in these tables."""


class Process(NamedTuple):
    """Of /proc/PID/stat; `born` in clock ticks since the machine's start."""

    pid: int
    name: str
    parent: int
    born: int


def end(port: int, why: str) -> str:
    """Kill what listens at `port` on loopback; log that and `why`, and return it."""
    found = servers(port)
    if not found or any(each.pid == 1 for each in found):
        advice = "it is process 1 itself, or hidden; run the container with an init (--init, init: true)"
        return _tell(f"{why}; cannot end it: {advice}")
    # Told before it is done: with its server the container ends, and with the container we do.
    said = _tell(f"{why}; ending process {', '.join(f'{each.pid} ({each.name})' for each in found)}")
    for each in found:
        with contextlib.suppress(ProcessLookupError):
            try:
                os.kill(each.pid, signal.SIGKILL)
            except PermissionError:
                return _tell(f"{why}; not allowed to end process {each.pid} ({each.name})")
    return said


def servers(port: int) -> list[Process]:
    """Return the processes that listen at `port`: a server, or a supervisor and its workers."""
    sockets = {f"socket:[{inode}]" for inode in _listeners(port)}
    found = [each for each in _processes() if not sockets.isdisjoint(_files(each.pid))]
    first = _process(1)
    if found or not _is_health_check() or not first or first.name not in INITS:
        return found
    # The service hides its files from us. It is what the init started, so it is the init's first child.
    children = sorted((each for each in _processes() if each.parent == 1), key=lambda each: each.born)
    return children[:1]


def _tell(text: str) -> str:
    """Write a line into the container's log: what its health check says is lost when it starts anew."""
    if _is_health_check():
        now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        line = {"ts": now, "level": "error", "logger": "serving.probe", "message": text}
        with contextlib.suppress(OSError), Path("/proc/1/fd/2").open("a") as log:
            log.write(json.dumps(line) + "\n")
    return text


def _is_health_check() -> bool:
    """Tell whether we were started from outside of this container: then our parent is nowhere in it."""
    return os.getppid() == 0


def _processes() -> Iterator[Process]:
    """Yield every process but ourselves."""
    for each in Path("/proc").iterdir():
        found = _process(int(each.name)) if each.name.isdecimal() and each.name != str(os.getpid()) else None
        if found:
            yield found


def _process(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(pid, head.partition("(")[2], int(fields[1]), int(fields[19]))


def _listeners(port: int) -> Iterator[str]:
    """Yield the inodes of sockets that listen at `port` and are reached through loopback."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                host, _, number = fields[1].partition(":")
                if fields[3] == LISTENS and int(number, 16) == port and host in LOOPBACK:
                    yield fields[9]


def _files(pid: int) -> Iterator[str]:
    """Yield what a process has open; of one that hides it, nothing."""
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(each.readlink())
