"""System calls that the filter holds until the keeper has answered. Requests and structures: linux/seccomp.h."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import NamedTuple

RECEIVE, SEND, VALID, ADD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
"""The ioctl(2) requests of a listener: RECV, SEND, ID_VALID and ADDFD."""
NOTICE = struct.Struct("=QIIiIQ6Q")
ANSWER = struct.Struct("=QqiI")
FILE = struct.Struct("=QIIII")
GO_ON = 1
"""SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel does what was asked."""
AND_ANSWER = 2
"""SECCOMP_ADDFD_FLAG_SEND: the number that the file gets is what the call returns (Linux 5.14)."""
LONGEST_PATH = 4096


class Notice(NamedTuple):
    """A call that waits: its own number, who makes it, and which call with which arguments."""

    ident: int
    pid: int
    number: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Notice | None:
    """Return the next call; None when its process was killed meanwhile, or interrupted."""
    notice = bytearray(NOTICE.size)
    try:
        fcntl.ioctl(listener, RECEIVE, notice)
    except OSError:
        return None
    ident, pid, _, number, _, _, *arguments = NOTICE.unpack(notice)
    return Notice(ident, pid, number, tuple(arguments))


def confirm(listener: int, notice: Notice) -> None:
    """Raise OSError unless the process still waits: its number may be another's by now."""
    fcntl.ioctl(listener, VALID, struct.pack("=Q", notice.ident))


def text(pid: int, address: int) -> str:
    """Return the path at an address of a process; raises OSError with what a call that takes a path would say."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.pread(memory, LONGEST_PATH, address)
    except (OSError, OverflowError) as error:
        raise OSError(errno.EFAULT, "path") from error
    finally:
        os.close(memory)
    if b"\0" not in content:
        raise OSError(errno.ENAMETOOLONG, "path")
    path = os.fsdecode(content.partition(b"\0")[0])
    if not path:
        raise FileNotFoundError(errno.ENOENT, "path")
    return path


def done(listener: int, notice: Notice, error: int) -> None:
    """Tell the process that its call was made (0), or the errno of what went wrong."""
    _send(listener, ANSWER.pack(notice.ident, 0, -error, 0))


def hand_over(listener: int, notice: Notice, file: int) -> None:
    """Give the process an open file of ours as what its call returns; raises OSError where that does not work."""
    fcntl.ioctl(listener, ADD, FILE.pack(notice.ident, AND_ANSWER, file, 0, 0))


def let_pass(listener: int, notice: Notice) -> None:
    """Let the kernel make the call."""
    _send(listener, ANSWER.pack(notice.ident, 0, 0, GO_ON))


def _send(listener: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # killed meanwhile
        while True:
            try:
                fcntl.ioctl(listener, SEND, content)
            except InterruptedError:
                continue
            return
