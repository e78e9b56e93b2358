"""Landlock, the kernel's sandbox for a process without privileges, by its three system calls.

Numbers and structures are those of linux/landlock.h; what a kernel does not know yet (its ABI, 1 to 7) is left out.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System call numbers; the same on every architecture of these images."""
VERSION_FLAG = 1
PATH_BENEATH, NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
ABSTRACT_SOCKETS, SIGNALS = 1 << 0, 1 << 1

READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
"""The rights that a rule about a single file may name."""

SCOPED_ABI = 6
"""From here on signals and abstract sockets stay inside the sandbox too."""

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the version of Landlock that this kernel lets us use, 0 for none."""
    return max(0, int(_libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def handled(version: int) -> tuple[int, int, int]:
    """Return what a sandbox of that version takes away at first: rights to files, to TCP, and scopes left."""
    files = (1 << 13) - 1
    files |= REFER if version >= 2 else 0
    files |= TRUNCATE if version >= 3 else 0
    files |= IOCTL_DEVICE if version >= 5 else 0
    return files, BIND_TCP | CONNECT_TCP if version >= 4 else 0, ABSTRACT_SOCKETS | SIGNALS if version >= 6 else 0


def restrict(version: int, read: Iterable[str], write: Iterable[str], ports: Iterable[int]) -> None:
    """Put this process and all that it starts into a sandbox, for good; raises OSError.

    `read` and `write` name files and folders with all below them; what does not exist cannot be reached, so it is left
    out. `ports` are those that TCP may connect to.
    """
    files, tcp, scopes = handled(version)
    attributes = struct.pack("=QQQ", files, tcp, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _call(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in read:
            _allow_path(ruleset, path, READ & files)
        for path in write:
            _allow_path(ruleset, path, files & ~(MAKE_CHAR | MAKE_BLOCK))
        for port in ports if tcp else ():
            _call(ADD_RULE, ruleset, NET_PORT, struct.pack("=QQ", CONNECT_TCP, port), 0)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= OF_FILES
        _call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, beneath), 0)
    finally:
        os.close(beneath)


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock ({number}): {os.strerror(error)}")
    return result
