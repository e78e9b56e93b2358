"""An engine as the rest of the toolkit sees it, and where the toolkit keeps what belongs to the machine."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path


def home() -> Path:
    """What all checkouts of this machine share: ``SHIPYARD_HOME``, else a system folder for root or a user's own."""
    if chosen := os.environ.get("SHIPYARD_HOME"):
        return Path(chosen).resolve()
    if os.geteuid() == 0:
        return Path("/var/lib/shipyard")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "shipyard"


@dataclass(frozen=True)
class Engine:
    """A reachable engine. ``host`` is what DOCKER_HOST would say; ``docker`` the client; ``config`` a private DOCKER_CONFIG."""

    host: str
    docker: str
    kind: str
    config: Path | None = None
    path: Path | None = None

    def variables(self) -> dict[str, str]:
        """What must be set so that any docker client uses this engine."""
        found = {"DOCKER_HOST": self.host}
        if self.config:
            found["DOCKER_CONFIG"] = str(self.config)
        if self.path:
            found["PATH"] = f"{self.path}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return found

    def exports(self) -> list[str]:
        """The variables as lines for a POSIX shell."""
        return [f"export {name}={shlex.quote(value)}" for name, value in self.variables().items()]

    def environment(self) -> dict[str, str]:
        """The whole environment for a docker client."""
        return {**os.environ, **self.variables()}


@dataclass(frozen=True)
class Status:
    """What ``engine.status`` shows. ``kind`` is host, embedded or none; ``version`` is empty when nothing answers.

    ``open_files`` is how many the engine, or its docker-proxy, may have; ``forwards`` what forwards published ports, "kernel"
    or "docker-proxy". Both are empty where this machine cannot tell.
    """

    kind: str
    host: str
    version: str
    detail: str
    open_files: int | None = None
    forwards: str = ""
