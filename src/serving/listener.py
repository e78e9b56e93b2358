"""Binds the listening socket, before anything slow is loaded and before any process is forked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from serving import unix_socket
from serving.unix_socket import BACKLOG, BindError

__all__ = ["BindError", "address", "bind", "listening"]


@contextmanager
def listening(host: str, port: int, path: str = "") -> Iterator[socket.socket]:
    """Yield a listening socket: at `path` if there is one, else at `host` and `port`. Raises BindError."""
    if path:
        with unix_socket.listening(path) as listener:
            yield listener
    else:
        yield bind(host, port)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket. Raises BindError."""
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        msg = f"{where}: unknown host; give an address of this machine, such as 127.0.0.1 or 0.0.0.0"
        raise BindError(msg) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        msg = f"{where}: {_explain(error)}"
        raise BindError(msg) from error
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """Return `host:port` of a bound socket, where port 0 has become the real one, or `unix:PATH`."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop what listens there (`ss -ltnp` names it) or choose another with --port"
    if error.errno == errno.EACCES:
        return "not allowed to listen there; choose a port above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; try 127.0.0.1 or 0.0.0.0 with --host"
    return (error.strerror or str(error)).lower()
