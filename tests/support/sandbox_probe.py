"""Tries one thing that the sandbox of the Claude CLI refuses: `sandbox_probe.py WHAT TARGET` prints what became of it.

Needs the standard library alone. Prints `done`, or the name of the error. What it changes outside the sandbox, where it
is a test's control, stays as it was.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PRIVATE_KEY, CREATE, REMOVE = 0, 0o1600, 0
MPTCP, FASTOPEN = 262, 0x20000000


def checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def limit(target: str) -> None:
    resource.prlimit(int(target), resource.RLIMIT_CORE, resource.prlimit(int(target), resource.RLIMIT_CORE))


def nice(target: str) -> None:
    os.setpriority(os.PRIO_PROCESS, int(target), os.getpriority(os.PRIO_PROCESS, int(target)))


def nice_all(_target: str) -> None:
    os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_USER, 0))


def affinity(target: str) -> None:
    os.sched_setaffinity(int(target), os.sched_getaffinity(int(target)))


def scheduler(target: str) -> None:
    os.sched_setscheduler(int(target), os.sched_getscheduler(int(target)), os.sched_param(0))


def watch(target: str) -> None:
    checked(LIBC.inotify_add_watch(checked(LIBC.inotify_init1(0)), os.fsencode(target), 0x100))


def shared_memory(_target: str) -> None:
    LIBC.shmctl(checked(LIBC.shmget(PRIVATE_KEY, 4096, CREATE)), REMOVE, None)


def messages(_target: str) -> None:
    LIBC.msgctl(checked(LIBC.msgget(PRIVATE_KEY, CREATE)), REMOVE, None)


def semaphores(_target: str) -> None:
    LIBC.semctl(checked(LIBC.semget(PRIVATE_KEY, 1, CREATE)), 0, REMOVE)


def message_queue(_target: str) -> None:
    name = f"/probe-{os.getpid()}".encode()
    checked(LIBC.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None))
    LIBC.mq_unlink(name)


def mptcp(target: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as connection:
        connection.connect(("127.0.0.1", int(target)))


def fastopen(target: str) -> None:
    with socket.socket() as connection:
        connection.sendto(b"hello", FASTOPEN, ("127.0.0.1", int(target)))


def chmod(target: str) -> None:
    Path(target).chmod(Path(target).stat().st_mode & 0o777)


def change(target: str) -> None:
    """Make a file and take all rights to it away; then give one back."""
    path = Path(target)
    path.write_text("of this test")
    for mode in (0, 0o640):
        path.chmod(mode)
        if path.stat().st_mode & 0o7777 != mode:
            msg = "the mode is another"
            raise ValueError(msg)


def bad_address(_target: str) -> None:
    LIBC.chmod.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    for address in (0, 8, 2**64 - 1):
        if LIBC.chmod(address, 0) != -1:
            msg = f"chmod of what is at {address} went well"
            raise ValueError(msg)
    checked(-1)


def bury(target: str) -> None:
    """Nest folders deeper than Python's recursion goes, and close a folder with a file in it."""
    Path(target).mkdir()
    Path(target, "shut").mkdir()
    Path(target, "shut", "file").touch()
    Path(target, "shut").chmod(0)
    os.chdir(target)
    for _ in range(2500):
        Path("deeper").mkdir()
        os.chdir("deeper")


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](sys.argv[2])
    except OSError as error:
        print(type(error).__name__)
    else:
        print("done")
