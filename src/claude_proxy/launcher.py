"""`python -m claude_proxy.launcher FD`: a small process that forks a keeper for every CLI.

A process of its own, because the proxy has threads and secrets, and a fork would copy both; and because its start-up is
paid for once. It reads jobs (JSON, with four file descriptors each) from its socket and ends with the proxy.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import sys

from claude_proxy import keeper, kernel

LARGEST_JOB = 1 << 20
"""In bytes. The kernel's own limit for one message of a socket is lower."""
FILES = 4
"""What comes with a job: the CLI's stdin, stdout and stderr, and the keeper's socket."""


def main(number: int) -> None:
    """Serve until the other end is closed."""
    jobs = socket.socket(fileno=number)
    kernel.hide()
    # Keepers bury themselves: nobody asks how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.disable()
    gc.freeze()
    while True:
        content, files, _, _ = socket.recv_fds(jobs, LARGEST_JOB, FILES, socket.MSG_CMSG_CLOEXEC)
        if not content:
            return
        _fork(jobs, content, files)


def _fork(jobs: socket.socket, content: bytes, files: list[int]) -> None:
    control = socket.socket(fileno=files.pop())
    try:
        pid = os.fork()
    except OSError as error:
        pid = -1
        control.sendall(f"error {error.errno or errno.EAGAIN}\n".encode())
    if pid == 0:
        try:
            jobs.close()
            keeper.keep(json.loads(content), files, control)
        finally:
            keeper.end_all()
            os._exit(0)
    control.close()
    for each in files:
        os.close(each)


if __name__ == "__main__":
    main(int(sys.argv[1]))
