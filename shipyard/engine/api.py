"""Two questions of the Docker Engine API, asked without the Docker SDK: importing that alone takes longer than a whole
build in which nothing changed. Everything else goes through the SDK, python-on-whales or the docker client.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from shipyard.errors import EngineFailed

#: Seconds an engine on this machine gets to answer; a busy two-core machine was seen to take 1.5.
TIMEOUT = 10.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def speaks(host: str) -> bool:
    """Whether this module can talk to such a host by itself (unix sockets and plain TCP; not TLS or SSH)."""
    return urlsplit(host).scheme in ("unix", "tcp", "http")


def get(host: str, path: str, timeout: float = TIMEOUT) -> Any:
    """GET a JSON document; None for 404. Raises EngineFailed when the engine does not answer or refuses."""
    parts = urlsplit(host)
    connection = (
        _UnixConnection(parts.path, timeout)
        if parts.scheme == "unix"
        else http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 2375, timeout=timeout)
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as problem:
        msg = f"the Docker engine at {host} does not answer ({problem})"
        raise EngineFailed(msg) from problem
    finally:
        connection.close()
    if response.status == http.client.NOT_FOUND:
        return None
    if response.status >= http.client.BAD_REQUEST:
        msg = f"the Docker engine at {host} refused {path}: {body[:500].decode(errors='replace')}"
        raise EngineFailed(msg)
    return json.loads(body)


def version(host: str, timeout: float = TIMEOUT) -> str | None:
    """The engine's version, or None when nothing answers at ``host``."""
    if host.startswith("unix://") and not Path(urlsplit(host).path).exists():
        return None
    try:
        return str(get(host, "/version", timeout)["Version"])
    except (EngineFailed, KeyError, TypeError, ValueError):
        return None


def image(host: str, reference: str) -> dict[str, Any] | None:
    """``docker image inspect`` of one reference; None when it is not there."""
    found: dict[str, Any] | None = get(host, f"/images/{quote(reference, safe='/:@')}/json")
    return found
