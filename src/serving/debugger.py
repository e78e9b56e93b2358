"""The remote debugger of development: debugpy's adapter inside the worker. Loaded only when asked for."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import sys

from serving.auth import is_loopback

log = logging.getLogger("serving.debugger")


def prepare() -> None:
    """Load the debugger's libraries without starting anything, so that workers need not; `listen` tells if they lack."""
    # The interpreter's frozen modules cannot be debugged, nobody wants to, and it would be mentioned at every start.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    with contextlib.suppress(ImportError):
        importlib.import_module("debugpy.server.api")


def listen(host: str, port: int) -> None:
    """Let a debugger attach at `port`; a failure is logged, the service goes on without.

    Who attaches may run any code, so it is on loopback only where the service at `host` is. DEBUGGER_HOST names another
    place: an address of this machine, or a name of which one address is.
    """
    prepare()
    try:
        import debugpy

        place = _own_address(os.environ.get("DEBUGGER_HOST", ""), host, port)
        # In this process, so that the port is free again as soon as `close` returns.
        debugpy.listen((place, port), in_process_debug_adapter=True)
    except ImportError:
        log.error("no debugger at port %d: debugpy is not here; the images of the targets debug and dev have it", port)
    except (OSError, RuntimeError) as error:
        log.error("no debugger at port %d: %s", port, error)
    else:
        log.info("debugger listens", extra={"address": f"{place}:{port}"})


def _own_address(wanted: str, host: str, port: int) -> str:
    """The address to listen at, which can be bound: debugpy would wait for ever for one that it fails to bind.

    Raises OSError.
    """
    if not wanted:
        wanted = "127.0.0.1" if is_loopback(host) else "0.0.0.0"
    problem = OSError(f"{wanted} is no address of this machine")
    for *_, address in socket.getaddrinfo(wanted, port, socket.AF_INET, socket.SOCK_STREAM):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(address)
            except OSError as error:
                problem = error
            else:
                return str(address[0])
    raise problem


def close() -> None:
    """Detach the debugger and free its port."""
    # debugpy itself offers no way to stop listening; pydevd, the part of it that holds the socket, has none either
    # but this thread.
    if "pydevd" not in sys.modules:
        return
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
