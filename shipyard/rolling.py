"""Exchanges the API's instances while they serve: new ones beside the old, and only when all of them are well, without those."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shipyard import compose, console, containers
from shipyard.containers import Container
from shipyard.engine import Engine, api
from shipyard.overlays import SCALED

if TYPE_CHECKING:
    from python_on_whales import DockerClient

#: Seconds until a new instance must be healthy.
WAIT = 120


@dataclass(frozen=True)
class Exchange:
    """Containers of the API: ``new`` ones that were started, ``old`` ones that are to go."""

    new: list[Container]
    old: list[Container]


def begin(engine: Engine, docker: DockerClient, config: Mapping[str, Any], scale: int) -> Exchange:
    """Start what is missing for ``scale`` instances of this configuration beside those of another one.

    Nothing that runs is touched. Raises StackFailed when a new one does not become healthy; then none is left.
    """
    project = str(config["name"])
    there = containers.every(engine, project, SCALED)
    old = outdated(engine, docker, config, there)
    missing = scale - (len(there) - len(old))
    if missing <= 0:
        return Exchange([], old)
    console.step(f"starting the new {SCALED} beside the old one" if old else f"starting {SCALED} in a container")
    names = {each.id for each in there}

    def begun() -> list[Container]:
        return [each for each in containers.every(engine, project, SCALED) if each.id not in names]

    try:
        compose.call(
            lambda: docker.compose.up(
                [SCALED],
                detach=True,
                recreate=False,
                dependencies=False,
                scales={SCALED: len(there) + missing},
                quiet=True,
            )
        )
        new = begun()
        containers.wait_healthy(engine, new, WAIT)
    except BaseException:
        retire(docker, begun(), force=True)
        raise
    return Exchange(new, old)


def retire(docker: DockerClient, found: list[Container], *, force: bool = False) -> None:
    """Stop and remove containers; each ends its open requests first, unless by force."""
    names = [each.id for each in found]
    if names and not force:
        compose.call(lambda: docker.container.stop(names))
    if names:
        compose.call(lambda: docker.container.remove(names, force=True))


def restart(engine: Engine, docker: DockerClient, found: list[Container]) -> None:
    """Stop containers cleanly, start them again and wait until they are healthy. Raises StackFailed."""
    compose.call(lambda: docker.container.restart([each.id for each in found]))
    containers.wait_healthy(engine, found, WAIT)


def outdated(
    engine: Engine, docker: DockerClient, config: Mapping[str, Any], there: list[Container]
) -> list[Container]:
    """Those of one service that Compose would not make the same way now, that are not well, or whose folders were replaced.

    Says why.
    """
    if not there:
        return []
    service = there[0].service
    wanted = _hash_of(docker, service, there)
    image = (api.image(engine.host, config["services"][service]["image"]) or {}).get("Id")
    reasons = {each.id: _reason(each, image, wanted) for each in there}
    for reason in sorted(set(filter(None, reasons.values()))):
        console.info(f"{service}: {reason}")
    return [each for each in there if reasons[each.id]]


def _hash_of(docker: DockerClient, service: str, there: list[Container]) -> str:
    """Compose's hash of a service; asked again where it is another one than before, for that ends open requests.

    Seen on a busy machine: another hash, and then no container that Compose itself found to be another one.
    """
    first = compose.hash_of(docker, service)
    if any(each.made_from == first for each in there):
        return first
    time.sleep(1)
    second = compose.hash_of(docker, service)
    if second != first:
        console.warn(f"Compose gave two hashes for one configuration of {service}: {first[:12]}, then {second[:12]}")
    return second


def _reason(container: Container, image: str | None, wanted: str) -> str:
    """Why a container is to be exchanged; empty when it is not."""
    if not container.well:
        return f"a container is {container.health if container.running else container.state}"
    if container.image != image:
        return "the image is another one"
    if container.made_from != wanted:
        return f"the configuration is another one ({wanted[:12]}, not {container.made_from[:12]})"
    return "a folder that is mounted was replaced" if containers.stale(container) else ""
