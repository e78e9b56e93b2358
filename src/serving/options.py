"""The command line and the environment of a service, as one value."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from serving.logs import LEVELS
from serving.settings import Env

DRAIN_SECONDS = 600.0
"""How long running requests may take to finish at the end: ten minutes, the longest answer of a large model."""

NOTICE_SECONDS = 0.1
"""How long after the order to stop new requests are still served: their clients could not know yet."""
REQUEST_SECONDS = 30.0
"""How long a client may take for the head of a request, and be silent within its body."""
MAX_CONNECTIONS = 4096
"""Open connections; one of them costs about 15 KiB while nothing is under way."""


@dataclass(frozen=True)
class Options:
    """How one service is served. `app` names a factory `create(health) -> ASGI app` as `module:function`.

    `socket` is a path to listen at instead of `host` and `port`. `notice_seconds` is part of `drain_seconds`.
    `request_seconds` bounds slow senders, `max_connections` what is open at a time; see `serving.protocol`.
    """

    app: str
    service: str
    host: str
    port: int
    reload: bool
    debugger: int | None
    log_level: str
    drain_seconds: float
    request_seconds: float = REQUEST_SECONDS
    max_connections: int = MAX_CONNECTIONS
    notice_seconds: float = NOTICE_SECONDS
    socket: str = ""

    @property
    def place(self) -> str:
        """The address as the service's own checks see it: the host, or `unix:PATH`."""
        return f"unix:{self.socket}" if self.socket else self.host


def read(
    app: str, service: str, env_prefix: str, default_port: int, argv: Sequence[str] | None, env: Env | None = None
) -> Options:
    """Parse `argv` (default: the process's own) over `<env_prefix>_HOST`, `_PORT`, `_SOCKET`, `_REQUEST_SECONDS`,
    `_MAX_CONNECTIONS`, LOG_LEVEL, DRAIN_SECONDS, DRAIN_NOTICE_SECONDS and DEBUGGER_PORT (0 or empty: no debugger).

    Raises SettingsError; a wrong command line ends the process with 2, as argparse does.
    """
    env = env or Env()
    host = env.text(f"{env_prefix}_HOST", "127.0.0.1")
    port = env.integer(f"{env_prefix}_PORT", default_port, minimum=0, maximum=65535)
    level = env.text("LOG_LEVEL", "info").lower()
    if level not in LEVELS:
        env.fault("LOG_LEVEL", f'"{level}" is none of {", ".join(LEVELS)}')
    drain = env.seconds("DRAIN_SECONDS", DRAIN_SECONDS)
    notice = env.seconds("DRAIN_NOTICE_SECONDS", NOTICE_SECONDS)
    patience = env.seconds(f"{env_prefix}_REQUEST_SECONDS", REQUEST_SECONDS, minimum=0.1)
    connections = env.integer(f"{env_prefix}_MAX_CONNECTIONS", MAX_CONNECTIONS, minimum=1)
    debugger = env.integer("DEBUGGER_PORT", 0, minimum=0, maximum=65535) or None
    parser = argparse.ArgumentParser(prog=f"python -m {app.partition(':')[0].removesuffix('.app')}")
    parser.add_argument("--host", default=host, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=port, help="port to listen on, 0 for any (default: %(default)s)")
    path = env.text(f"{env_prefix}_SOCKET")
    parser.add_argument("--socket", default=path, metavar="PATH", help="unix socket to listen at instead")
    parser.add_argument("--reload", action="store_true", help="serve changed source files without a restart")
    parser.add_argument(
        "--debugger", type=_port, default=debugger, metavar="PORT", help="let a debugger attach at PORT (DAP)"
    )
    given = parser.parse_args(argv)
    env.finish()
    return Options(
        app=app,
        service=service,
        host=given.host,
        port=given.port,
        reload=given.reload,
        debugger=given.debugger,
        log_level=level,
        drain_seconds=drain,
        request_seconds=patience,
        max_connections=connections,
        notice_seconds=notice,
        socket=given.socket,
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        msg = "a port is a number from 0 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return port
