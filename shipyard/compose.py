"""Docker Compose on this checkout's files: one client, its effective configuration, its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipyard import dotenv, gpus, quantities, variants
from shipyard.engine import api
from shipyard.errors import StackFailed
from shipyard.models import LABEL_REFERENCE, Project, Selection
from shipyard.run import apart, run

if TYPE_CHECKING:
    from python_on_whales import DockerClient

    from shipyard.engine import Engine


def client(
    project: Project,
    engine: Engine,
    selection: Selection,
    *,
    extra: bool = True,
    profiles: tuple[str, ...] = (),
    pinned: Path | None = None,
) -> DockerClient:
    """A Docker client for the selection's files; ``extra`` adds those that SHIPYARD_COMPOSE_EXTRA names, ``pinned`` is one
    with what ``pins`` makes, which counts last.

    Raises ConfigError with what is wrong in the settings of variants and GPUs. What those leave open about the GPU, and about
    the processors of the model server, the engine decides.
    """
    written = dotenv.write(project)
    settings = {**written, **os.environ}
    variants.check(project, selection, settings, dotenv.filled(project))
    if not settings.get(quantities.PROCESSORS["ollama"]):
        info = api.get(engine.host, "/info") or {}
        os.environ.update(quantities.usual_processors(int(info.get("NCPU") or 0)))
    if "gpu" in selection.add_ons:
        os.environ.update(gpus.choice(engine, settings).variables())
    names = ["compose", selection.overlay, *selection.add_ons]
    if selection.overlay == "dev" and written.get("CLAUDE_LOGIN_FOLDER"):
        names.append("login")
    more = [Path(part) for part in os.environ.get("SHIPYARD_COMPOSE_EXTRA", "").split(os.pathsep) if part and extra]
    files = [*(project.root / "compose" / f"{name}.yaml" for name in names), *more]
    return _client(project, engine, [*files, pinned] if pinned else files, profiles)


def pins(config: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """What a last Compose file says of services whose images are known by digest: that, and a label with the reference.

    A reference of ours belongs to the engine: whoever builds the same version beside us gives it to other bytes.
    """
    return {
        name: {"image": digests[reference], "labels": {LABEL_REFERENCE: reference}}
        for name, service in config["services"].items()
        if (reference := str(service.get("image", ""))) in digests
    }


def with_pins(config: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The effective configuration as Compose makes it with that file."""
    services = {
        name: {**service, **pin, "labels": {**(service.get("labels") or {}), **pin["labels"]}}
        if (pin := found.get(name))
        else service
        for name, service in config["services"].items()
    }
    return {**config, "services": services}


def from_file(project: Project, engine: Engine, file: Path) -> DockerClient:
    """A Docker client for one file that an earlier start has left: a configuration with every variable filled in."""
    return _client(project, engine, [file])


def by_name(project: Project, engine: Engine) -> DockerClient:
    """A Docker client that knows the project only by its name: for what exists, whatever the files say by now."""
    return _client(project, engine, [])


def _client(project: Project, engine: Engine, files: list[Path], profiles: tuple[str, ...] = ()) -> DockerClient:
    from python_on_whales import DockerClient

    os.environ.update(engine.variables())
    os.environ["COMPOSE_PROGRESS"] = "quiet"
    environment = project.root / ".env"
    return DockerClient(
        compose_files=list(files),
        compose_profiles=list(profiles),
        compose_env_files=[environment] if files and environment.exists() else [],
        compose_project_name=dotenv.project_name(project.root),
        # Without files Compose would look for one where the user happens to be.
        compose_project_directory=None if files else project.state,
        # Apart from the terminal's process group: Ctrl-C is ours to handle, also while this client cleans up.
        client_call=[*apart(), engine.docker],
    )


def hash_of(docker: DockerClient, service: str) -> str:
    """What Compose writes into the label ``config-hash`` of a container that it makes now for the service."""
    found = run([*map(str, docker.compose.docker_compose_cmd), "config", "--hash", service])
    return found.stdout.strip().rpartition(" ")[2]


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
