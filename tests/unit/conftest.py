"""Unit tests start no process and touch no network: whatever tries fails its test at once, with the reason.

An audit hook (PEP 578) sees every way there, also those that a replaced ``subprocess.Popen`` would miss: ``os.fork``,
``from subprocess import run`` in a module imported long ago, a library's own socket. ``asyncio`` keeps working, for the
pair of connected sockets that wakes its loop is neither bound nor connected by anyone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

_PROCESS = "a unit test may not start a process"
_NETWORK = "a unit test may not use the network"
_ADVICE = "split the pure part out and test that, or move the test to tests/services, tests/images or tests/phases"

#: Audit events (docs.python.org/3/library/audit_events.html) that end a test; both loopback and unix sockets count.
_FORBIDDEN = {
    "subprocess.Popen": _PROCESS,
    "os.exec": _PROCESS,
    "os.fork": _PROCESS,
    "os.forkpty": _PROCESS,
    "os.posix_spawn": _PROCESS,
    "os.system": _PROCESS,
    "pty.spawn": _PROCESS,
    "socket.bind": _NETWORK,
    "socket.connect": _NETWORK,
    "socket.getaddrinfo": _NETWORK,
    "socket.gethostbyaddr": _NETWORK,
    "socket.gethostbyname": _NETWORK,
    "socket.sendmsg": _NETWORK,
    "socket.sendto": _NETWORK,
}

_armed = False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if not _armed or event not in _FORBIDDEN:
        return
    # Processes have their program first, sockets have their address last; os.fork has nothing to tell.
    what = arguments[0 if _FORBIDDEN[event] is _PROCESS else -1] if arguments else None
    # pytest's own failure is a BaseException: an "except Exception" of the code under test cannot hide it.
    pytest.fail(f"{_FORBIDDEN[event]} ({event}: {what!r}); {_ADVICE}", pytrace=True)


sys.addaudithook(_refuse)  # a hook cannot be removed again, so it asks whether a unit test is running


@pytest.fixture(autouse=True)
def _no_processes_no_network() -> Iterator[None]:
    global _armed
    _armed = True
    yield
    _armed = False
