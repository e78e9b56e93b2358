"""Binds the listening socket, before anything slow is loaded and before any process is forked."""

from __future__ import annotations

import errno
import socket

BACKLOG = 2048
"""Connections that wait while a worker is busy or being replaced; the kernel caps it at net.core.somaxconn."""


class BindError(Exception):
    """The address cannot be listened on; the text names it and says what to try."""


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
    """Return `host:port` of a bound socket; port 0 has become the real one."""
    name = listener.getsockname()
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
