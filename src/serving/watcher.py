"""A process of its own that tells which source files changed, one JSON list of paths per line on a pipe.

watchfiles runs threads, and a process with threads must not fork workers: hence the process.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import orjson

log = logging.getLogger("serving.watcher")

SUFFIXES = (".py", ".toml")
STEP_MS = 20
"""A save is reported when nothing more changed for this long: an editor's several writes are one change."""
DEBOUNCE_MS = 200
"""The longest that a steady flow of changes is held back."""
TIMEOUT_MS = 500
"""How soon the watcher notices that nobody listens any more."""


def start(sources: Sequence[str], unwanted: socket.socket) -> tuple[int, int]:
    """Fork the watcher; return its process id and the file descriptor to read its lines from.

    `unwanted` is the listening socket, which only workers may hold.
    """
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        os.set_blocking(reader, False)
        return pid, reader
    code = 1
    try:
        os.close(reader)
        unwanted.close()
        detach()
        _watch(sources, writer, parent)
        code = 0
    except BaseException:
        log.exception("the watcher failed: changed files are not noticed any more")
    finally:
        os._exit(code)


def detach() -> None:
    """Make a forked process deaf to Ctrl-C, and give its signals their default effect again.

    SIGHUP keeps the handler of the supervisor, which does nothing here: the default would end the process.
    """
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(each, signal.SIG_DFL)


def parse(data: bytes) -> list[str]:
    """Return the changed paths, sorted, from whole lines of the watcher."""
    return sorted({path for line in data.splitlines() for path in orjson.loads(line)})


def _watch(sources: Sequence[str], writer: int, parent: int) -> None:
    from watchfiles import watch

    existing = [each for each in sources if Path(each).exists()]
    changes = watch(
        *existing,
        watch_filter=lambda _change, path: path.endswith(SUFFIXES),
        step=STEP_MS,
        debounce=DEBOUNCE_MS,
        rust_timeout=TIMEOUT_MS,
        yield_on_timeout=True,
    )
    for each in changes:
        if os.getppid() != parent:
            return
        if each:
            os.write(writer, orjson.dumps(sorted({path for _, path in each})) + b"\n")
