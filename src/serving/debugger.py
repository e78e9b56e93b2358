"""The remote debugger of development: debugpy's adapter inside the worker. Loaded only when asked for."""

from __future__ import annotations

import importlib
import logging
import os
import socket

log = logging.getLogger("serving.debugger")


def prepare() -> None:
    """Load the debugger's libraries without starting anything, so that workers need not."""
    # The interpreter's frozen modules cannot be debugged, nobody wants to, and it would be mentioned at every start.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    importlib.import_module("debugpy.server.api")


def listen(port: int) -> None:
    """Let a debugger attach at `port` on every interface; a failure is logged, the service goes on without."""
    prepare()
    import debugpy

    try:
        # debugpy would wait for ever for a port that its own thread fails to bind.
        _try_to_bind(port)
        # In this process, so that the port is free again as soon as `close` returns.
        debugpy.listen(("0.0.0.0", port), in_process_debug_adapter=True)
    except (OSError, RuntimeError) as error:
        log.error("no debugger at port %d: %s", port, error)
    else:
        log.info("debugger listens", extra={"port": port})


def close() -> None:
    """Detach the debugger and free its port."""
    # debugpy itself offers no way to stop listening; pydevd, the part of it that holds the socket, has none either
    # but this thread.
    running = importlib.import_module("pydevd").get_global_debugger()
    waiting = getattr(running, "_waiting_for_connection_thread", None)
    if running is None or waiting is None:
        return
    listener: socket.socket = waiting._server_socket.dup()
    waiting.do_kill_pydev_thread()
    running.dispose_and_kill_all_pydevd_threads(wait=False)
    # A closed socket listens on while a thread waits in its accept(): this ends the waiting.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _try_to_bind(port: int) -> None:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        attempt.bind(("0.0.0.0", port))
