"""Ties a process to the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal

SET_DEATH_SIGNAL = 1
"""prctl(2): PR_SET_PDEATHSIG of linux/prctl.h."""

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """Be killed when `parent`, this process's parent, ends; also when that has happened already. It survives an exec."""
    if _libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl ({SET_DEATH_SIGNAL}): {os.strerror(error)}")
    if os.getppid() != parent:
        os._exit(1)
