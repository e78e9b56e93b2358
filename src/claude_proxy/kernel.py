"""The few prctl(2) requests that Python has no name for. Numbers: linux/prctl.h."""

from __future__ import annotations

import ctypes
import os

SET_DUMPABLE = 4
SET_CHILD_SUBREAPER = 36
SET_NO_NEW_PRIVILEGES = 38

_libc = ctypes.CDLL(None, use_errno=True)


def hide() -> None:
    """Keep this process's memory, environment and files from others of the same user; undone by an exec."""
    _set(SET_DUMPABLE, 0)


def show() -> None:
    """Undo `hide`: files of /proc about a hidden process belong to root, so not even itself may write to them."""
    _set(SET_DUMPABLE, 1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends; raises OSError."""
    _set(SET_CHILD_SUBREAPER, 1)


def forgo_privileges() -> None:
    """Let no exec give this process more rights, as Landlock demands; raises OSError."""
    _set(SET_NO_NEW_PRIVILEGES, 1)


def _set(request: int, value: int) -> None:
    if _libc.prctl(request, value, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl ({request}): {os.strerror(error)}")
