"""The containers of a stack, as the engine sees them at one moment. Asked of its API: a client would take a process each time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shipyard import quantities
from shipyard.engine import Engine, api
from shipyard.errors import StackFailed
from shipyard.models import LABEL_REFERENCE
from shipyard.run import run

#: Seconds between two looks at a container that is starting; a look takes the engine a few milliseconds.
_POLL = 0.1
_LABEL = "com.docker.compose"


@dataclass(frozen=True)
class Container:
    """One container: ``image`` is the id of its image, ``reference`` what the Compose files call it, ``made_from`` Compose's hash
    of its configuration, ``ports`` the published ones, ``since`` when it started (UTC), ``process`` its first one's number,
    ``binds`` places of the host with those where they are mounted, ``killed`` whether its last end was the kernel's, for its
    memory: the engine forgets that when it starts it again.
    """

    id: str
    service: str
    state: str
    health: str
    image: str
    reference: str
    made_from: str
    restarts: int
    ports: str
    since: str
    process: int = 0
    binds: tuple[tuple[str, str], ...] = ()
    killed: bool = False

    @property
    def well(self) -> bool:
        """Whether it runs and nothing is known to be wrong with it; a crash loop is no running."""
        return self.running and self.health != "unhealthy"

    @property
    def running(self) -> bool:
        """Whether it runs, healthy or not."""
        return self.state == "running"


def every(engine: Engine, project: str, service: str = "") -> list[Container]:
    """The containers of a Compose project, stopped ones too, or those of one of its services. Raises EngineFailed."""
    labels = [f"{_LABEL}.project={project}", *([f"{_LABEL}.service={service}"] if service else [])]
    filters = quote(json.dumps({"label": labels}))
    listed: list[dict[str, Any]] = api.get(engine.host, f"/containers/json?all=1&filters={filters}") or []
    looked = (look(engine, each["Id"]) for each in listed)
    return sorted((each for each in looked if each), key=lambda each: (each.service, each.since))


def look(engine: Engine, name: str) -> Container | None:
    """A container as it is now; None when it is gone."""
    found: dict[str, Any] | None = api.get(engine.host, f"/containers/{name}/json")
    if not found:
        return None
    state, labels = found["State"], found["Config"].get("Labels") or {}
    bindings = [
        f"{binding['HostIp']}:{binding['HostPort']}->{port.partition('/')[0]}"
        for port, each in (found["NetworkSettings"].get("Ports") or {}).items()
        for binding in each or ()
    ]
    return Container(
        id=found["Id"],
        service=labels.get(f"{_LABEL}.service", found["Name"].lstrip("/")),
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status", ""),
        image=found["Image"],
        reference=labels.get(LABEL_REFERENCE, found["Config"]["Image"]),
        made_from=labels.get(f"{_LABEL}.config-hash", ""),
        restarts=found.get("RestartCount", 0),
        ports=" ".join(dict.fromkeys(bindings)),
        since=state.get("StartedAt", "")[:19].replace("T", " "),
        process=state.get("Pid", 0),
        binds=tuple((each["Source"], each["Destination"]) for each in found["Mounts"] if each["Type"] == "bind"),
        killed=bool(state.get("OOMKilled")),
    )


def stale(container: Container) -> bool:
    """Whether a folder that it has mounted was replaced on the host since: it goes on with the one that is gone.

    Only root on the engine's own machine can see that; for others nothing is stale.
    """
    for source, target in container.binds if container.running else ():
        inside, outside = Path(f"/proc/{container.process}/root{target}"), Path(source)
        with suppress(OSError):
            if inside.is_dir() and not (outside.exists() and outside.samefile(inside)):
                return True
    return False


def wait_healthy(engine: Engine, containers: Iterable[Container], seconds: float) -> None:
    """Return when all of them are healthy. Raises StackFailed with the last words of the first one that will not be."""
    end = time.monotonic() + seconds
    waiting = {each.id: each for each in containers}
    while waiting:
        for name, before in list(waiting.items()):
            now = look(engine, name)
            if now and now.running and now.health in ("healthy", ""):
                del waiting[name]
            elif not now or not now.running or now.restarts > before.restarts or now.health == "unhealthy":
                raise StackFailed(_unwell(engine, now or before))
            elif time.monotonic() > end:
                raise StackFailed(_unwell(engine, now))
        time.sleep(_POLL if waiting else 0)


def last_words(engine: Engine, containers: Iterable[Container]) -> str:
    """The end of the log of every container that is not healthy: the reason is usually there, and else with the kernel."""
    parts = []
    for each in containers:
        if not each.running or each.health not in ("healthy", ""):
            said = run(
                [engine.docker, "logs", "--tail", "10", each.id], env=engine.environment(), timeout=30, check=False
            )
            tail = (said.stdout + said.stderr).strip().replace("\n", "\n    ") or "(it has said nothing)"
            state = each.health if each.running else each.state
            parts.append(f"{each.service} is {state}{_of_memory(engine, each)}:\n    {tail}")
    return "\n".join(parts)


def _of_memory(engine: Engine, container: Container) -> str:
    """That the kernel killed a container for its memory, and what mends that; empty for every other end."""
    if not (container.killed or (container.restarts and _was_killed(engine, container))):
        return ""
    variable = quantities.MEMORY.get(container.service)
    return ", killed for its memory" + (f"; raise {variable} in .env" if variable else "")


def _was_killed(engine: Engine, container: Container) -> bool:
    """Whether the engine remembers that (256 events of all containers) of one that runs again."""
    words = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        f"container={container.id}",
        "--filter",
        "event=oom",
    ]
    found = run([engine.docker, *words], env=engine.environment(), timeout=30, check=False)
    return bool(found.stdout.strip())


def published(engine: Engine, project: str = "") -> dict[int, str]:
    """Ports of the host and the running container that publishes each, of every project or of one."""
    found: list[dict[str, Any]] = api.get(engine.host, "/containers/json") or []
    return {
        int(port["PublicPort"]): f"container {each['Names'][0].lstrip('/')}"
        for each in found
        for port in each.get("Ports") or ()
        if port.get("PublicPort") and project in ("", (each.get("Labels") or {}).get(f"{_LABEL}.project"))
    }


def strangers(engine: Engine, project: str, service: str, network: str) -> list[str]:
    """Other Compose projects that have a running container of this service on a network."""
    filters = quote(json.dumps({"label": [f"{_LABEL}.service={service}"], "network": [network]}))
    found: list[dict[str, Any]] = api.get(engine.host, f"/containers/json?filters={filters}") or []
    return sorted({str((each.get("Labels") or {}).get(f"{_LABEL}.project", "")) for each in found} - {project})


def _unwell(engine: Engine, container: Container) -> str:
    return f"{container.service} did not become healthy\n{last_words(engine, [container])}"
