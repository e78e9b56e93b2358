"""Docker Compose on this checkout's files: one client, its effective configuration, its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shipyard import dotenv
from shipyard.errors import StackFailed
from shipyard.models import Project

if TYPE_CHECKING:
    from python_on_whales import DockerClient

    from shipyard.engine import Engine


def client(project: Project, engine: Engine, overlay: str, *, extra: bool = True) -> DockerClient:
    """A Docker client for the overlay; `extra` adds the files that SHIPYARD_COMPOSE_EXTRA names."""
    from python_on_whales import DockerClient

    os.environ.update(engine.variables())
    os.environ["COMPOSE_PROGRESS"] = "quiet"
    settings = dotenv.write(project)
    names = ["compose", overlay]
    if overlay == "dev" and settings.get("CLAUDE_LOGIN_FOLDER"):
        names.append("login")
    files = [project.root / "compose" / f"{name}.yaml" for name in names]
    more = [part for part in os.environ.get("SHIPYARD_COMPOSE_EXTRA", "").split(os.pathsep) if part and extra]
    return DockerClient(
        compose_files=[*files, *more],
        compose_env_files=[project.root / ".env"],
        compose_project_name=dotenv.project_name(project.root),
        client_call=[engine.docker],
    )


def call(action: Callable[[], object]) -> None:
    """Do something of Compose's. Raises StackFailed with the end of what it said."""
    from python_on_whales.exceptions import DockerException

    try:
        action()
    except DockerException as failed:
        raise StackFailed(message(failed)) from failed


def message(failed: Any) -> str:
    """The end of what Compose said."""
    lines = (failed.stderr or str(failed)).strip().splitlines()
    return "docker compose: " + "\n".join(lines[-10:])


def config(compose: DockerClient) -> dict[str, Any]:
    """The effective configuration, every variable filled in. Raises StackFailed."""
    from python_on_whales.exceptions import DockerException

    try:
        found: dict[str, Any] = compose.compose.config(return_json=True)
    except DockerException as failed:
        raise StackFailed(message(failed)) from failed
    return found
