"""The containers of this checkout's stack, as the engine sees them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shipyard import compose
from shipyard.engine import api
from shipyard.errors import StackFailed
from shipyard.models import Project

if TYPE_CHECKING:
    from python_on_whales import Container, DockerClient

    from shipyard.engine import Engine

#: Seconds between two looks at a container that is starting; a look takes the engine a few milliseconds.
_POLL = 0.1


@dataclass(frozen=True)
class Service:
    """A container as ``status`` shows it; ``ports`` are the published ones, ``since`` is when it started (UTC)."""

    service: str
    state: str
    health: str
    image: str
    ports: str
    since: str


def every(docker: DockerClient, service: str = "") -> list[Container]:
    """The stack's containers, stopped ones too, or those of one service. Raises StackFailed."""
    from python_on_whales.exceptions import DockerException

    try:
        found = docker.compose.ps(all=True)
    except DockerException as failed:
        raise StackFailed(compose.message(failed)) from failed
    return [each for each in found if not service or label(each) == service]


def services(project: Project, engine: Engine) -> list[Service]:
    """Every container of this checkout's stack, by service."""
    found = every(compose.by_name(project, engine))
    return sorted((_service(container) for container in found), key=lambda each: (each.service, each.since))


def label(container: Container) -> str:
    """The service that a container belongs to."""
    return str((container.config.labels or {}).get("com.docker.compose.service", container.name))


def wait_healthy(containers: Iterable[Container], seconds: float) -> None:
    """Return when all of them are healthy. Raises StackFailed with the last words of the first one that will not be."""
    end = time.monotonic() + seconds
    waiting = list(containers)
    while waiting:
        for container in list(waiting):
            container.reload()  # type: ignore[no-untyped-call]
            state = container.state
            health = state.health.status if state.health else "healthy" if state.running else ""
            if health == "healthy":
                waiting.remove(container)
            elif not state.running or container.restart_count or health == "unhealthy" or time.monotonic() > end:
                msg = f"{label(container)} did not become healthy\n{last_words([container])}"
                raise StackFailed(msg)
        time.sleep(_POLL if waiting else 0)


def last_words(containers: Iterable[Container]) -> str:
    """The end of the log of every container that is not healthy: the reason is usually there."""
    from python_on_whales.exceptions import DockerException

    parts = []
    try:
        for container in containers:
            health = container.state.health
            if not container.state.running or (health and health.status != "healthy"):
                tail = str(container.logs(tail=10)).strip().replace("\n", "\n    ")
                state = health.status if container.state.running and health else container.state.status
                parts.append(f"{label(container)} is {state}:\n    {tail}")
    except DockerException:
        pass  # the engine itself is in trouble; the first error says so already
    return "\n".join(parts)


def published(engine: Engine, project: str = "") -> dict[int, str]:
    """Ports of the host and the running container that publishes each, of every project or of one."""
    found: list[dict[str, Any]] = api.get(engine.host, "/containers/json") or []
    return {
        int(port["PublicPort"]): f"container {each['Names'][0].lstrip('/')}"
        for each in found
        for port in each.get("Ports") or ()
        if port.get("PublicPort") and project in ("", (each.get("Labels") or {}).get("com.docker.compose.project"))
    }


def _service(container: Any) -> Service:
    health = container.state.health
    bindings = [
        f"{binding['HostIp']}:{binding['HostPort']}->{port.partition('/')[0]}"
        for port, found in (container.network_settings.ports or {}).items()
        for binding in found or ()
    ]
    started = container.state.started_at
    return Service(
        service=label(container),
        state=str(container.state.status),
        health=str(health.status) if health else "",
        image=str(container.config.image),
        ports=" ".join(dict.fromkeys(bindings)),
        since=started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if isinstance(started, datetime) else "",
    )
