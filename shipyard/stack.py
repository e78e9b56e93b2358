"""The running stack: Compose overlays over ``compose/compose.yaml``, driven by python-on-whales."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shipyard import compose, console, dotenv, images, ports, secrets
from shipyard.engine import lock
from shipyard.errors import ConfigError, StackFailed, UnknownName
from shipyard.machine import replace
from shipyard.models import Fault, Project
from shipyard.names import perhaps

if TYPE_CHECKING:
    from python_on_whales import DockerClient

    from shipyard.engine import Engine

#: The images' target of each overlay; an image without it takes prod.
TARGETS = {"dev": "dev", "prod": "prod"}
#: Seconds until every service must be healthy.
WAIT = 120
#: The variable that moves each published port, by service and port in the container.
_VARIABLES = {
    ("llm-call-api", 8001): "LLM_CALL_API_PORT",
    ("llm-call-api", 5678): "LLM_CALL_DEBUGGER_PORT",
    ("claude-proxy", 3010): "CLAUDE_PROXY_PORT",
    ("redis", 6379): "REDIS_PORT",
}


@dataclass(frozen=True)
class Service:
    """A service as ``status`` shows it; ``ports`` are the published ones, ``since`` is when it started (UTC)."""

    service: str
    state: str
    health: str
    image: str
    ports: str
    since: str


def run(project: Project, engine: Engine, overlay: str, *, detach: bool) -> None:
    """Bring the stack up; in the foreground, stream its logs until Ctrl-C and take it down."""
    if not detach:  # a closed terminal or a SIGTERM stops the stack as Ctrl-C does
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
    up(project, engine, overlay)
    if not detach:
        follow(project, engine)


def up(project: Project, engine: Engine, overlay: str) -> None:
    """Bring the overlay's stack up and wait until it is healthy. Raises PortInUse or StackFailed; then nothing stays half up."""
    _check_readable(project)
    _announce(secrets.init(project))
    images.build(project, engine, images.Request(target=TARGETS[overlay], fallback="prod"))
    with lock(f"starting {overlay}", project.state / "lock"):
        _start(project, engine, overlay)


def _start(project: Project, engine: Engine, overlay: str) -> None:
    docker = compose.client(project, engine, overlay)
    running = {each.service for each in services(project, engine)}
    _check_ports(docker, running)
    try:
        console.step(f"starting the {overlay} stack ({dotenv.project_name(project.root)})")
        replace(_state(project), json.dumps({"overlay": overlay, "owner": os.getpid()}))
        compose.call(
            lambda: docker.compose.up(detach=True, wait=True, wait_timeout=WAIT, remove_orphans=True, quiet=True)
        )
        for each in services(project, engine):
            console.info(f"{each.service:<14} {each.health or each.state:<10} {each.ports}")
    except BaseException as failed:
        if isinstance(failed, StackFailed):
            failed = StackFailed(f"{failed}\n{_last_words(docker)}")
        if not running:
            console.step("taking down what had started")
            docker.compose.down(quiet=True)
        raise failed from None


def follow(project: Project, engine: Engine) -> None:
    """Stream logs until Ctrl-C, then stop the stack; volumes stay."""
    try:
        console.step("following the logs; Ctrl-C stops the stack")
        for line in logs(project, engine, follow=True):
            console.result(line)
        console.step("the logs have ended")
    except KeyboardInterrupt:
        console.step("stopping")
    except StackFailed as failed:
        console.warn(str(failed))
    finally:
        if _remembered(project).get("owner") == os.getpid():
            down(project, engine)
        else:
            console.step("another invoke has the stack now; it is left as it is")


def logs(
    project: Project, engine: Engine, *, service: str = "", follow: bool = False, tail: int = 200
) -> Iterator[str]:
    """Lines of the services' logs. Raises UnknownName for a service that the stack does not have."""
    from python_on_whales.exceptions import DockerException

    docker = compose.client(project, engine, overlay_of(project))
    known = list(compose.config(docker)["services"])
    if service and service not in known:
        msg = f'service "{service}": not in compose/compose.yaml; {perhaps(service, known)}'
        raise UnknownName(msg)
    wanted: list[str] = [service] if service else []
    try:
        for _, chunk in docker.compose.logs(wanted, follow=follow, stream=True, tail=str(tail)):
            yield from chunk.decode(errors="replace").splitlines()
    except DockerException as failed:
        raise StackFailed(compose.message(failed)) from failed


def down(project: Project, engine: Engine, *, volumes: bool = False) -> None:
    """Stop and remove the stack's containers and networks; ``volumes`` removes its data too."""
    docker = compose.client(project, engine, overlay_of(project))
    with lock("stopping the stack", project.state / "lock"):
        compose.call(lambda: docker.compose.down(remove_orphans=True, volumes=volumes, quiet=True))
        _state(project).unlink(missing_ok=True)
    console.step("the stack is down" + (", its volumes are removed" if volumes else "; its volumes are kept"))


def services(project: Project, engine: Engine) -> list[Service]:
    """Every container of this checkout's stack, by service."""
    from python_on_whales.exceptions import DockerException

    docker = compose.client(project, engine, overlay_of(project))
    try:
        containers = docker.compose.ps(all=True)
    except DockerException as failed:
        raise StackFailed(compose.message(failed)) from failed
    return sorted((_service(container) for container in containers), key=lambda each: each.service)


def overlay_of(project: Project) -> str:
    """The overlay that was started last; dev when none is known, for names that do not depend on it."""
    overlay = str(_remembered(project).get("overlay"))
    return overlay if overlay in TARGETS else "dev"


def _remembered(project: Project) -> dict[str, Any]:
    """What the last start noted: its overlay and the process that owns the stack in the foreground."""
    try:
        found = json.loads(_state(project).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_readable(project: Project) -> None:
    """Containers read these as another user than the checkout's owner. Raises ConfigError for a checkout closed to others."""
    closed = [
        name for name in ("config", "config/models.toml", "src") if not (project.root / name).stat().st_mode & 0o004
    ]
    if closed:
        hint = "the services run as a user of their own; chmod -R go+rX config src"
        raise ConfigError([Fault(name, "is not readable by others", hint) for name in closed])


def status(project: Project, engine: Engine) -> dict[str, Any]:
    """What ``status`` shows: overlay, version, project name and services."""
    found = services(project, engine)
    return {
        "overlay": overlay_of(project) if found else None,
        "version": project.version,
        "project": dotenv.project_name(project.root),
        "services": [asdict(each) for each in found],
    }


def _state(project: Project) -> Any:
    return project.state / "stack.json"


def _check_ports(docker: DockerClient, running: set[str]) -> None:
    wanted = [
        ports.Published(
            name, port.get("host_ip", ""), int(port["published"]), _VARIABLES.get((name, port["target"]), "its port")
        )
        for name, service in compose.config(docker)["services"].items()
        if name not in running
        for port in service.get("ports") or ()
        if port.get("published")
    ]
    owners = {
        int(binding["HostPort"]): f"container {container.name}"
        for container in docker.container.list()
        for bindings in (container.network_settings.ports or {}).values()
        for binding in bindings or ()
    }
    ports.check(wanted, owners)


def _last_words(docker: DockerClient) -> str:
    """The end of the log of every service that is not healthy: the reason is usually there."""
    from python_on_whales.exceptions import DockerException

    parts = []
    try:
        for container in docker.compose.ps(all=True):
            health = container.state.health
            if not container.state.running or (health and health.status != "healthy"):
                tail = str(container.logs(tail=10)).strip().replace("\n", "\n    ")
                state = health.status if container.state.running and health else container.state.status
                parts.append(f"{_label(container)} is {state}:\n    {tail}")
    except DockerException:
        pass  # the engine itself is in trouble; the first error says so already
    return "\n".join(parts)


def _label(container: Any) -> str:
    return str((container.config.labels or {}).get("com.docker.compose.service", container.name))


def _service(container: Any) -> Service:
    health = container.state.health
    bindings = [
        f"{binding['HostIp']}:{binding['HostPort']}->{port.partition('/')[0]}"
        for port, found in (container.network_settings.ports or {}).items()
        for binding in found or ()
    ]
    started = container.state.started_at
    return Service(
        service=_label(container),
        state=str(container.state.status),
        health=str(health.status) if health else "",
        image=str(container.config.image),
        ports=" ".join(dict.fromkeys(bindings)),
        since=started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if isinstance(started, datetime) else "",
    )


def _announce(made: secrets.Made) -> None:
    if made.created:
        console.step("made secrets/: " + ", ".join(made.created))
    if made.client_key:
        console.info("clients present the key in secrets/client_key: Authorization: Bearer $(cat secrets/client_key)")
