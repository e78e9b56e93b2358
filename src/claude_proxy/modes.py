"""chmod on behalf of a sandboxed process: Landlock has no rule for it, so the filter asks the keeper.

The keeper changes the mode itself, of the file that it finds: what the process does to the path meanwhile, or to the
links in it, leads nowhere else. Structures: linux/openat2.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator

from claude_proxy import notices, seccomp
from claude_proxy.notices import Notice

OPENAT2 = 437
"""A system call number; the same on every architecture of these images."""
BENEATH = 0x08 | 0x02
"""RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS."""
HERE, NO_FOLLOW = -100, 0x100
"""AT_FDCWD and AT_SYMLINK_NOFOLLOW of linux/fcntl.h."""
PERMISSIONS = 0o777
"""What may be changed. Bits that lend the owner's rights, or the group's, serve nobody here."""

_libc = ctypes.CDLL(None, use_errno=True)


def folders(paths: Iterable[str]) -> list[str]:
    """Return the folders among what a request may write to, each as it is named and as it is."""
    named = [path for path in paths if os.path.isdir(path)]  # noqa: PTH112  # one word for a path throughout this module
    return list(dict.fromkeys([*named, *map(os.path.realpath, named)]))


def change(listener: int, notice: Notice, roots: list[str]) -> int:
    """Change the mode that a process asks for if its file lies below one of `roots`; return 0, or the errno for it."""
    try:
        _change(listener, notice, roots)
    except OSError as fault:
        return fault.errno or errno.EPERM
    return 0


def _asked(number: int, arguments: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return folder, address of the path, mode and flags, whichever call it was."""
    machine = platform.machine()
    if number == seccomp.number("chmod", machine):
        return HERE, arguments[0], arguments[1], 0
    folder = ctypes.c_int(arguments[0] & 0xFFFFFFFF).value
    flags = arguments[3] if number == seccomp.number("fchmodat2", machine) else 0
    return folder, arguments[1], arguments[2], flags


def _change(listener: int, notice: Notice, roots: list[str]) -> None:
    folder, address, mode, flags = _asked(notice.number, notice.arguments)
    path = notices.text(notice.pid, address)
    if not path.startswith("/"):
        base = os.readlink(f"/proc/{notice.pid}/cwd" if folder == HERE else f"/proc/{notice.pid}/fd/{folder}")  # noqa: PTH115
        path = f"{base}/{path}"
    # Only now is it certain that memory and links were those of the process that asks, not of a later one.
    notices.confirm(listener, notice)
    root, place = _below(path, roots)
    if not root or flags & ~NO_FOLLOW:
        raise PermissionError(errno.EPERM, path)
    with _opened(root) as beneath:
        file = _open(beneath, place, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if flags else 0))
    try:
        os.chmod(f"/proc/self/fd/{file}", mode & PERMISSIONS)  # noqa: PTH101
    finally:
        os.close(file)


def _below(path: str, roots: list[str]) -> tuple[str, str]:
    """Return the root that a path lies below, and the path from there; two empty words for none."""
    plain = os.path.normpath(path)
    for root in roots:
        if plain.startswith(f"{root}/"):
            return root, os.path.relpath(plain, root)
    return "", ""


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


def _open(folder: int, path: str, flags: int) -> int:
    how = struct.pack("=QQQ", flags, 0, BENEATH)
    file = int(_libc.syscall(OPENAT2, folder, os.fsencode(path), how, len(how)))
    if file < 0:
        raise OSError(ctypes.get_errno(), path)
    return file
