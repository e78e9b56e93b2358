"""Connections by way of a SOCKS5 proxy (RFC 1928, RFC 1929), as Go makes them: the proxy looks names up.

urllib3 has the same for a library, PySocks, which nothing else here needs and whose last release is of 2019.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import urllib3

SCHEMES = ("socks5", "socks5h")
_PORT = 1080
_VERSION, _NO_LOGIN, _PASSWORD, _CONNECT, _DONE = 5, 0, 2, 1, 0
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REFUSALS = {
    1: "it failed",
    2: "its rules do not allow it",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the connection was refused",
}


def manager(proxy: str, **options: Any) -> urllib3.PoolManager:
    """HTTPS by way of a proxy; ``options`` are urllib3's."""
    import urllib3
    from urllib3.connection import HTTPSConnection
    from urllib3.connectionpool import HTTPSConnectionPool

    class Connection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            try:
                return connect(proxy, self.host, self.port or 443, self.timeout)
            except OSError as problem:
                raise urllib3.exceptions.NewConnectionError(
                    self, f"no way through the SOCKS proxy: {problem}"
                ) from problem

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    found = urllib3.PoolManager(**options)
    found.pool_classes_by_scheme = {"https": Pool}
    return found


def connect(proxy: str, host: str, port: int, timeout: Any) -> socket.socket:
    """A connection to ``host`` that the proxy makes; ``timeout`` in seconds. Raises OSError."""
    parts = urlsplit(proxy)
    found = socket.create_connection((parts.hostname or "", parts.port or _PORT), timeout)
    try:
        _greet(found, unquote(parts.username or "").encode(), unquote(parts.password or "").encode())
        _ask(found, host, port)
    except BaseException:
        found.close()
        raise
    return found


def _greet(wire: socket.socket, user: bytes, password: bytes) -> None:
    ways = bytes([_NO_LOGIN, _PASSWORD] if user else [_NO_LOGIN])
    wire.sendall(bytes([_VERSION, len(ways)]) + ways)
    version, way = _exactly(wire, 2)
    if version != _VERSION or way not in ways:
        msg = "it speaks no SOCKS5" if version != _VERSION else "it wants another login"
        raise ConnectionError(msg)
    if way == _PASSWORD:
        wire.sendall(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        if _exactly(wire, 2)[1] != _DONE:
            msg = "it refuses the login"
            raise ConnectionError(msg)


def _ask(wire: socket.socket, host: str, port: int) -> None:
    wire.sendall(bytes([_VERSION, _CONNECT, 0]) + _place(host) + port.to_bytes(2, "big"))
    _, answer, _, kind = _exactly(wire, 4)
    if answer != _DONE:
        msg = _REFUSALS.get(answer, f"it answers {answer}")
        raise ConnectionError(msg)
    size = {_IPV4: 4, _IPV6: 16}.get(kind) or _exactly(wire, 1)[0]
    _exactly(wire, size + 2)  # where it connects from


def _place(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        name = host.encode("idna")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _exactly(wire: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        block = wire.recv(size - len(found))
        if not block:
            msg = "it closed the connection"
            raise ConnectionError(msg)
        found += block
    return found
