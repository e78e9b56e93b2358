"""What every check starts from: the checkout, the engine and what it says of itself. Looked at once; nothing is started."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shipyard import config, dotenv
from shipyard import engine as engines
from shipyard.engine import Engine, Status, api, embedded
from shipyard.errors import ConfigError, EngineFailed
from shipyard.models import Fault, Project

Found = TypeVar("Found")


@dataclass(frozen=True)
class Patient:
    """``project`` is None when its files have ``faults``; ``info`` is the engine's /info at ``at`` (seconds since 1970), empty
    when there is none; ``settings`` are the lines of .env, below the variables of the environment as Compose has it.
    """

    root: Path
    project: Project | None
    faults: tuple[Fault, ...]
    status: Status
    engine: Engine
    info: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    settings: Mapping[str, str] = field(default_factory=dict)
    _once: dict[str, Callable[[], Any]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def known(self) -> Project:
        """The project, for a check that needs one."""
        assert self.project
        return self.project

    @property
    def local(self) -> bool:
        """Whether containers run on this machine's own kernel, which is not so with an engine elsewhere or in a VM."""
        return not self.info or self.info.get("KernelVersion") == os.uname().release

    def once(self, what: str, look: Callable[[], Found]) -> Found:
        """What one look finds, for all checks that ask for it."""
        found: Found = self._once.setdefault(what, functools.cache(look))()
        return found

    def compose(self, name: str) -> str:
        """The text of a Compose file; empty when it cannot be read."""
        try:
            return (self.root / "compose" / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return ""


def look(root: Path) -> Patient:
    """The checkout at ``root`` and the engine that it would use."""
    try:
        project, faults = config.load(root), tuple[Fault, ...]()
    except ConfigError as failed:
        project, faults = None, failed.faults
    status = engines.status()
    host = status.host or os.environ.get("DOCKER_HOST") or embedded.host()
    return Patient(
        root, project, faults, status, engines.look(host), _info(status), time.time(), {**_written(root), **os.environ}
    )


def _info(status: Status) -> Mapping[str, Any]:
    if status.kind == "none" or not api.speaks(status.host):
        return {}
    try:
        return api.get(status.host, "/info") or {}
    except EngineFailed:
        return {}


def _written(root: Path) -> dict[str, str]:
    try:
        return dotenv.parse((root / ".env").read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
