"""System calls that the filter holds until the keeper has answered. Requests and structures: linux/seccomp.h."""

from __future__ import annotations

import contextlib
import fcntl
import struct
from typing import NamedTuple

RECEIVE, SEND, VALID = 0xC0502100, 0xC0182101, 0x40082102
"""The ioctl(2) requests of a listener: RECV, SEND and ID_VALID."""
NOTICE = struct.Struct("=QIIiIQ6Q")
ANSWER = struct.Struct("=QqiI")
GO_ON = 1
"""SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel does what was asked."""


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


def done(listener: int, notice: Notice, error: int) -> None:
    """Tell the process that its call was made (0), or the errno of what went wrong."""
    _send(listener, ANSWER.pack(notice.ident, 0, -error, 0))


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
