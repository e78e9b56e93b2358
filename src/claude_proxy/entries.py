"""Entries of /proc that a process on a GPU opens of itself, on its behalf: Landlock can name the CLI's own, but not those
of processes that start later, and to name /proc would show every request the others'.

The keeper opens the entry of the process that asks, and hands it the open file; what it does to the path meanwhile
leads nowhere else. Everything that is not such an entry goes on to the kernel, and is judged by Landlock.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from claude_proxy import notices
from claude_proxy.notices import Notice

ENTRY = re.compile(r"/proc/(self|thread-self|\d+)/((?:task/\d+/)?(comm|maps|stat|status))", re.ASCII)
"""By whom it is named, where it is from there, and its name."""
WRITABLE = ("comm",)
"""A thread's name: the driver's library gives its threads names, and does without a GPU where it may not."""
TGID = re.compile(rb"^Tgid:\s+(\d+)$", re.MULTILINE)
"""Bytes: a thread's name, which stands beside it, may be any."""


def answer(listener: int, notice: Notice, path: int, flags: int) -> None:
    """Open what the process asks for at the address `path` if it is an entry of its own; else let the kernel decide."""
    with suppress(OSError):
        file = _opened(listener, notice, notices.text(notice.pid, path), flags)
        if file is not None:
            try:
                notices.hand_over(listener, notice, file)
            finally:
                os.close(file)
            return
    notices.let_pass(listener, notice)


def _opened(listener: int, notice: Notice, path: str, flags: int) -> int | None:
    found = ENTRY.fullmatch(path)
    if not found or (flags != os.O_RDONLY and found[3] not in WRITABLE):
        return None
    if found[1].isdigit() and found[1] != _process(notice.pid):
        return None
    file = os.open(f"/proc/{notice.pid}/{found[2]}", flags | os.O_CLOEXEC)
    try:
        # Only now is it certain that memory and entry were those of the process that asks, not of a later one.
        notices.confirm(listener, notice)
    except OSError:
        os.close(file)
        raise
    return file


def _process(thread: int) -> str:
    """Return the number of the process that a thread is of."""
    found = TGID.search(Path(f"/proc/{thread}/status").read_bytes())
    return found[1].decode() if found else ""
