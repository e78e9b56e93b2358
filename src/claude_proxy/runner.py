"""`python -m claude_proxy.runner --connect FOLDER --work FOLDER`: room for one CLI at a time, in a container of its own.

It connects to the newest socket below the first folder, says that it is ready, and takes one job (JSON, with the CLI's
stdin, stdout and stderr, the keeper's socket and a parcel of files). Afterwards it becomes clean and says so; where it
does not, it ends, and the engine starts a new container process. It needs no privilege, no secret and no network.

When the connection ends, everything ends that runs here, and it starts again from its own code. SIGTERM lets a run end.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from claude_proxy import cgroup, gpu, keeper, kernel, launcher, parcels, reset
from claude_proxy.folders import Folder, make

SUFFIX = ".sock"
READY, LEAVING = b"ready ", b"leaving"
FILES = 5
"""What comes with a job: the CLI's stdin, stdout and stderr, the keeper's socket, and the parcel."""
KEPT_BACK = 96 << 20
"""Bytes of the container's memory that are not the request's: the runner, its keeper, and what the kernel keeps for both."""
BASE_URL = "ANTHROPIC_BASE_URL"
"""The variable that says where a CLI asks."""
PORTS = {"http": 80, "https": 443}
RETRY_SECONDS = 0.1
"""Between two looks for a socket."""
UNLIMITED = 1 << 40
LOWERED = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_MEMLOCK: 64 << 10,
    resource.RLIMIT_SIGPENDING: 1024,
    resource.RLIMIT_RTPRIO: 0,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_NOFILE: keeper.OPEN_FILES,
}
"""Limits that no CLI needs to be higher. Those of processes and memory belong to the container."""


class Runner:
    """One connection from its begin to its end."""

    def __init__(self, connection: socket.socket, work: Path, wake: int, stop: Stop) -> None:
        self._connection, self._work, self._wake, self._stop = connection, work, wake, stop
        self._keepers: set[int] = set()
        self._poller = select.poll()
        for each in (connection.fileno(), wake):
            self._poller.register(each, select.POLLIN)

    def serve(self) -> None:
        """Take jobs until the other end is gone, or until SIGTERM; raises reset.UncleanError."""
        told = False
        while True:
            busy = bool(self._keepers)
            if self._stop.asked and not busy:
                return
            if self._stop.asked and not told:
                told = True
                self._say(LEAVING)
            ready = [each for each, _ in self._poller.poll()]
            if self._wake in ready:
                os.read(self._wake, 512)
                launcher.bury(self._keepers)
                if busy and not self._keepers:
                    reset.clean(self._work)
                    self.ready()
            if self._connection.fileno() in ready and not self._take():
                return

    def ready(self) -> None:
        """Say that there is room, and how much."""
        disk = os.statvfs(self._work)
        memory = cgroup.find(cgroup.MEMORY)
        room = {
            "work": str(self._work),
            "memory": memory.limit - KEPT_BACK if memory else UNLIMITED,
            # A part of the file system stays free, so that the bound is met before it is full.
            "disk": min(UNLIMITED, disk.f_blocks * disk.f_frsize // 8 * 7),
        }
        self._say(READY + json.dumps(room).encode())

    def _say(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the end of the connection is noticed where it is read
            self._connection.send(message)

    def _take(self) -> bool:
        """Start the keeper of the next job; whether there was one, or the proxy is gone."""
        try:
            content, files, _, _ = socket.recv_fds(
                self._connection, launcher.LARGEST_JOB, FILES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        if not content:
            return False
        parcel = files.pop()
        control = socket.socket(fileno=files.pop())
        try:
            self._begin(json.loads(content), files, control, parcel)
        except OSError as error:
            control.sendall(f"error {error.errno or errno.EIO}\n".encode())
        finally:
            control.close()
            for each in (*files, parcel):
                os.close(each)
        if not self._keepers:
            reset.clean(self._work)
            self.ready()
        return True

    def _begin(self, job: dict[str, Any], files: list[int], control: socket.socket, parcel: int) -> None:
        folder = Folder(Path(job["folder"]))
        make(folder)
        parcels.unpack(parcel, job["files"], folder.root)
        nodes = gpu.nodes() if job["gpus"] else ()
        if nodes:
            job |= {"read": [*job["read"], *gpu.DESCRIPTIONS], "write": [*job["write"], *nodes], "gpu": True}
        if not job["datagrams"]:
            job["env"][BASE_URL] = addressed(job["env"].get(BASE_URL, ""))
        launcher.fork(job, files, control, self._keepers, [self._connection])


def addressed(url: str) -> str:
    """Return a URL with the address of its host in place of the name; raises OSError where there is none."""
    parts = urlsplit(url)
    if not parts.hostname:
        return url
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(errno.EHOSTUNREACH, f"{parts.hostname}: {error.strerror}") from error
    return parts._replace(netloc=f"{found[0][4][0]}:{parts.port or PORTS[parts.scheme]}").geturl()


class Stop:
    """Whether SIGTERM was sent."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.asked = True


def connected(folder: Path, stop: Stop) -> socket.socket | None:
    """Return a connection to the newest socket in the folder, as soon as there is one; None after SIGTERM."""
    while not stop.asked:
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=_made, reverse=True):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
            else:
                return connection
        time.sleep(RETRY_SECONDS)
    return None


def _made(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def lower_limits() -> None:
    """Keep for this process and all below it no more than a CLI needs."""
    for kind, most in LOWERED.items():
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))


def main(folder: Path, work: Path) -> NoReturn:
    """Serve one connection, then start again; ends with 0 after SIGTERM, with 1 when it does not become clean."""
    kernel.hide()
    kernel.adopt_orphans()
    lower_limits()
    stop = Stop()
    wake = launcher.wake_on_child()
    signal.signal(signal.SIGTERM, stop.ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    gc.disable()
    gc.freeze()
    try:
        reset.clean(work)
        connection = connected(folder, stop)
        if connection is None:
            sys.exit(0)
        runner = Runner(connection, work, wake, stop)
        runner.ready()
        runner.serve()
        connection.close()
        reset.clean(work)
    except reset.UncleanError as error:
        sys.stderr.write(f"runner: not clean after a run: {error}; it ends, to be started again\n")
        sys.exit(1)
    time.sleep(RETRY_SECONDS)
    # A signal from here on waits for the one that starts now.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if stop.asked:
        sys.exit(0)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # itself, with what its code is by now


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="claude_proxy.runner", description="Run one CLI at a time for a claude-proxy."
    )
    parser.add_argument("--connect", type=Path, required=True, metavar="FOLDER", help="where the proxy's socket is")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="FOLDER", help="emptied, then used for each request's files"
    )
    given = parser.parse_args()
    main(given.connect, given.work)
