"""`python -m claude_proxy.launcher FD`: a small process that forks a keeper for every CLI.

A process of its own, because the proxy has threads and secrets, and a fork would copy both; and because its start-up is
paid for once. It reads jobs (JSON, with four file descriptors each) from its socket and ends with the proxy. Where a
keeper was killed, what it watched over becomes a child of the launcher, which ends it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable
from typing import Any

from claude_proxy import keeper, kernel, tree

LARGEST_JOB = 1 << 20
"""In bytes. The kernel's own limit for one message of a socket is lower."""
FILES = 4
"""What comes with a job: the CLI's stdin, stdout and stderr, and the keeper's socket."""


def main(number: int) -> None:
    """Serve until the other end is closed."""
    jobs = socket.socket(fileno=number)
    kernel.hide()
    kernel.adopt_orphans()
    wake = wake_on_child()
    gc.disable()
    gc.freeze()
    poller = select.poll()
    poller.register(jobs, select.POLLIN)
    poller.register(wake, select.POLLIN)
    keepers: set[int] = set()
    strays = False
    while True:
        ready = [each for each, _ in poller.poll(keeper.SWEEP_SECONDS * 1000 if strays else None)]
        if wake in ready:
            os.read(wake, 512)
        if wake in ready or strays:
            strays = bury(keepers) or strays
            # In rounds, with jobs taken in between: whoever forks without end holds up no other request.
            strays = strays and end_strays(keepers)
        if jobs.fileno() in ready and not _take(jobs, keepers):
            return


def wake_on_child() -> int:
    """Return a file descriptor that becomes readable when a child has ended."""
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    return wake


def bury(keepers: set[int]) -> bool:
    """Take leave of every child that has ended; whether one of them was no keeper, or one that did not end by itself."""
    killed = False
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            killed = killed or ended[0] not in keepers or ended[1] != 0
            keepers.discard(ended[0])
    return killed


def end_strays(keepers: set[int]) -> bool:
    """Kill every child that is no keeper, with all below it; whether there was one."""
    found = tree.descendants(os.getpid(), keepers)
    tree.kill(found)
    return bool(found)


def _take(jobs: socket.socket, keepers: set[int]) -> bool:
    """Start the keeper of the next job; whether there was one, or the proxy is gone."""
    content, files, _, _ = socket.recv_fds(jobs, LARGEST_JOB, FILES, socket.MSG_CMSG_CLOEXEC)
    if content:
        _fork(jobs, content, files, keepers)
    return bool(content)


def _fork(jobs: socket.socket, content: bytes, files: list[int], keepers: set[int]) -> None:
    control = socket.socket(fileno=files.pop())
    try:
        fork(json.loads(content), files, control, keepers, [jobs])
    finally:
        control.close()
        for each in files:
            os.close(each)


def fork(
    job: dict[str, Any], files: list[int], control: socket.socket, keepers: set[int], ours: Iterable[socket.socket]
) -> None:
    """Start the keeper of a job; it closes what is `ours` alone. Where it cannot be started, `control` is told so."""
    try:
        pid = os.fork()
    except OSError as error:
        control.sendall(f"error {error.errno or errno.EAGAIN}\n".encode())
        return
    if pid == 0:
        try:
            for each in ours:
                each.close()
            keeper.keep(job, files, control)
        finally:
            keeper.end_all()
            os._exit(0)
    keepers.add(pid)


if __name__ == "__main__":
    main(int(sys.argv[1]))
