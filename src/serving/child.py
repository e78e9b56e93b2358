"""The worker's side of hot reload: serves, and listens to the supervisor over a socket.

One byte each: the worker says READY and FREED, the supervisor says HANDOVER and DEBUG. The end of the stream tells the
worker that its supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys

from serving import debugger, logs
from serving.options import Options
from serving.settings import EX_CONFIG, SettingsError
from serving.worker import Worker, serve

READY = b"r"
HANDOVER = b"h"
DEBUG = b"d"
FREED = b"f"

log = logging.getLogger("serving.reload")


def run(options: Options, listener: socket.socket, control: socket.socket) -> int:
    """Serve until told otherwise and return the exit code; a fault of the new code is logged with its traceback."""
    logs.setup(options.log_level, sys.stderr)
    control.setblocking(False)
    try:
        return serve(options, listener, lambda worker: Link(worker, options, control).open())
    except SettingsError as error:
        sys.stderr.writelines(f"{options.service}: {fault}\n" for fault in error.faults)
        return EX_CONFIG
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        log.exception("the new code does not start")
        return 1


class Link:
    """Acts on what the supervisor says, inside the worker's event loop."""

    def __init__(self, worker: Worker, options: Options, control: socket.socket) -> None:
        self._worker = worker
        self._options = options
        self._control = control

    def open(self) -> None:
        """Say that requests are accepted, and listen from now on."""
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._hear)
        self._say(READY)

    def _hear(self) -> None:
        try:
            words = self._control.recv(16)
        except ConnectionResetError:  # it ended without having read what this worker said
            words = b""
        if DEBUG in words and self._options.debugger is not None:
            debugger.listen(self._options.place, self._options.debugger)
        if HANDOVER in words:
            if self._options.debugger is not None:
                debugger.close()
            self._say(FREED)
            self._worker.hand_over()
        if not words:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._worker.abandon()

    def _say(self, word: bytes) -> None:
        # A supervisor that is gone by now has ended the stream as well, and that is heard in its turn.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(word)
