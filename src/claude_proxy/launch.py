"""The launcher process as the proxy sees it: started when first needed, and again should it have ended."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("claude_proxy.launch")

END_SECONDS = 2.0
"""How long the launcher may take to notice that its socket was closed."""


class Launcher:
    """Takes jobs for new processes. Its methods block for a moment; call them from a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: socket.socket | None = None

    def send(self, job: bytes, files: Sequence[int]) -> None:
        """Hand over a job with copies of these file descriptors; raises OSError."""
        with self._lock:
            try:
                socket.send_fds(self._connected(), [job], list(files))
            except (BrokenPipeError, ConnectionResetError):
                log.error("the launcher of the CLIs ended; starting another")
                self._end()
                socket.send_fds(self._connected(), [job], list(files))

    def close(self) -> None:
        """End the launcher; the keepers of running processes end by themselves."""
        with self._lock:
            self._end()

    def _connected(self) -> socket.socket:
        if self._jobs is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = _start(theirs.fileno())
            self._jobs = ours
        return self._jobs

    def _end(self) -> None:
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None


def _start(number: int) -> subprocess.Popen[bytes]:
    # Nothing of our environment: every CLI is a descendant, and it is to inherit none of it.
    env = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath}
    argv = [sys.executable, "-S", "-m", "claude_proxy.launcher", str(number)]
    return subprocess.Popen(argv, env=env, cwd="/", stdin=subprocess.DEVNULL, pass_fds=[number], start_new_session=True)
