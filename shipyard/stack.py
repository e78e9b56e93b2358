"""The running stack: bring it up, move it, look at it, take it down."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shipyard import (
    compose,
    console,
    containers,
    dotenv,
    gpus,
    host_api,
    images,
    moves,
    overlays,
    ports,
    quantities,
    reached,
    remembered,
    rotation,
    secrets,
    secrets_check,
    signals,
    variants,
)
from shipyard.diagnosis import open_files
from shipyard.engine import api, embedded, lock
from shipyard.engine import status as engine_status
from shipyard.errors import ConfigError, PortInUse, StackFailed, UnknownName
from shipyard.models import Project, Selection
from shipyard.names import perhaps

if TYPE_CHECKING:
    from shipyard.engine import Engine

#: The service that is the API's name on a network which other projects join.
GRANGER = "granger"
COLUMNS = ("service", "state", "health", "image", "ports", "since")


def run(project: Project, engine: Engine, selection: Selection, *, detach: bool, host: bool = False) -> None:
    """Bring the stack up; in the foreground, stream its logs until Ctrl-C and take it down."""
    up(project, engine, selection, host=host)
    if not detach:
        follow(project, engine)


def up(project: Project, engine: Engine, selection: Selection, *, host: bool = False) -> None:
    """Bring the selection's stack up, or move the one that runs to it; ``host`` starts the API on the host in phase 1.

    Everything that can be checked is, before anything stops. Raises ConfigError, NoGpu, PortInUse or StackFailed; then what
    ran before runs.
    """
    overlays.possible(engine)
    if faults := overlays.unreadable(project):
        raise ConfigError(faults)
    written = dotenv.write(project)
    settings = {**written, **os.environ}
    variants.check(project, selection, settings, dotenv.filled(project))
    if selection.overlay == "host" and (wrong := host_api.faults(written)):
        raise ConfigError(wrong)
    if "gpu" in selection.add_ons:
        console.step(f"containers get {gpus.check(engine, settings)}")
    _announce(secrets.init(project))
    for fault in secrets_check.check(project).faults:
        console.warn(str(fault))
    (project.state / "api").mkdir(parents=True, exist_ok=True)
    for folder in (project.state, project.state / "api"):
        folder.chmod(0o755)  # whatever the umask: the balancer goes in as a user of its own
    for note in variants.notes(selection, settings):
        console.warn(note)
    _warn_of_files()
    overlays.check(project, engine, selection)
    variants.prepare(project, selection, settings)
    if more := os.environ.get("SHIPYARD_COMPOSE_EXTRA"):
        console.warn(f"SHIPYARD_COMPOSE_EXTRA adds {more}, which no policy judges")
    docker = compose.client(project, engine, selection)
    config = compose.config(docker)
    if faults := overlays.beyond(engine, config, settings):
        raise ConfigError(faults)
    ours = tuple(str(service.get("image", "")) for service in config["services"].values())
    built = {each.reference: each.digest for each in images.build(project, engine, images.Request(references=ours))}
    with lock(f"starting {selection}", project.state / "lock"):
        _present(engine, built)
        found = compose.pins(config, built)
        place = remembered.pin(project, found) if found else None
        docker = compose.client(project, engine, selection, pinned=place)
        _start(moves.Move(project, engine, selection, docker, compose.with_pins(config, found), host))


def _present(engine: Engine, built: Mapping[str, str]) -> None:
    """Raise StackFailed for images that somebody removed since they were built, before anything stops."""
    lost = [f"{reference} ({digest})" for reference, digest in built.items() if not api.image(engine.host, digest)]
    if lost:
        msg = f"{', '.join(lost)}: removed from {engine.host} since it was built; run the same command again"
        raise StackFailed(msg)


def _start(move: moves.Move) -> None:
    project, selection = move.project, move.selection
    there = containers.every(move.engine, move.name)
    before = {each.id: each.service for each in there}
    running = any(each.running for each in there)
    _check_ports(move)
    _networks(move)
    if move.on_host:
        host_api.write(project, move.engine, selection)
    earlier = remembered.started(project)
    if before and earlier and earlier.selection.overlay != selection.overlay:
        console.step(f"moving from {earlier.selection} to {selection} ({dotenv.project_name(project.root)})")
    else:
        many = f" with {selection.scale} instances of the API" if selection.scale > 1 else ""
        console.step(f"starting the {selection} stack{many} ({dotenv.project_name(project.root)})")
    if lost := sorted(set(earlier.selection.add_ons if before and earlier else ()) - set(selection.add_ons)):
        console.step(f"without {', '.join(lost)} from now on: add --{' --'.join(lost)} to keep that")
    if running:
        if any(each.service == "redis" and _earlier(each, project) for each in there):
            rotation.restart(project, move.engine, "redis")
        moves.change(move, before)
    else:
        moves.fresh(move)
    for each in containers.every(move.engine, move.name):
        console.info(f"{each.service:<14} {each.health or each.state:<10} {each.ports}")


def _earlier(redis: containers.Container, project: Project) -> bool:
    """Whether Redis started before its users were written: it reads them at its start."""
    written = (secrets.folder(project) / secrets.USERS_CONF).stat().st_mtime
    started = datetime.strptime(redis.since + "+0000", "%Y-%m-%d %H:%M:%S%z").timestamp()
    return redis.running and written > started + 1  # to the second


def follow(project: Project, engine: Engine) -> None:
    """Stream logs until Ctrl-C, then stop the stack; volumes stay."""
    try:
        console.step("following the logs; Ctrl-C stops the stack")
        for line in logs(project, engine, follow=True):
            console.result(line)
        console.step("the logs have ended")
    except signals.Stopped:  # a closed terminal or a SIGTERM stops the stack as Ctrl-C does
        signals.answered()
        console.step("stopping")
    except StackFailed as failed:
        console.warn(str(failed))
    finally:
        mine = remembered.started(project)
        if mine and mine.owner == os.getpid():
            down(project, engine)
        else:
            console.step("another invoke has the stack now; it is left as it is")


def logs(
    project: Project, engine: Engine, *, service: str = "", follow: bool = False, tail: int = 200
) -> Iterator[str]:
    """Lines of the services' logs. Raises UnknownName for a service that the stack does not have."""
    from python_on_whales.exceptions import DockerException

    docker = compose.by_name(project, engine)
    known = sorted({each.service for each in containers.every(engine, dotenv.project_name(project.root))})
    on_host = service in ("", overlays.SCALED) and host_api.process(project)
    if on_host:
        known.append(overlays.SCALED)
        yield from host_api.log(project).read_text(errors="replace").splitlines()[-tail:]
    if service and service not in known:
        msg = f'service "{service}": the stack has no such container; {perhaps(service, known)}'
        raise UnknownName(msg)
    if on_host and service:
        return
    wanted: list[str] = [service] if service else []
    try:
        for _, chunk in docker.compose.logs(wanted, follow=follow, stream=True, tail=str(tail)):
            yield from chunk.decode(errors="replace").splitlines()
    except DockerException as failed:
        raise StackFailed(compose.message(failed)) from failed


def down(project: Project, engine: Engine, *, volumes: bool = False) -> None:
    """Stop and remove the stack's containers and networks; ``volumes`` removes its data too."""
    docker = compose.by_name(project, engine)
    with lock("stopping the stack", project.state / "lock"):
        host_api.stop(project)
        compose.call(lambda: docker.compose.down(remove_orphans=True, volumes=volumes, quiet=True))
        remembered.forget(project)
    console.step("the stack is down" + (", its volumes are removed" if volumes else "; its volumes are kept"))


def status(project: Project, engine: Engine) -> dict[str, Any]:
    """What ``status`` shows: phase, version, project name, and services with health, image, ports and since when (UTC)."""
    found = containers.every(engine, dotenv.project_name(project.root))
    last = remembered.started(project)
    selection = last.selection if last and found else None
    services = [
        dict(zip(COLUMNS, (each.service, each.state, each.health, each.reference, each.ports, each.since), strict=True))
        for each in found
    ]
    if number := host_api.process(project):
        on_host = {"service": overlays.SCALED, "state": "running", "image": f"process {number} of the host"}
        services.append({**dict.fromkeys(COLUMNS, ""), **on_host})
    return {
        "overlay": selection.overlay if selection else None,
        "phase": overlays.PHASES.get(selection.overlay) if selection else None,
        "add_ons": list(selection.add_ons) if selection else [],
        "since": last.since if last and selection else None,
        "version": project.version,
        "project": dotenv.project_name(project.root),
        "services": services,
        "published": reached.published(engine, found),
        "engine": _engine(),
    }


def _engine() -> str:
    """The engine, what forwards its ports and how many files it may have open."""
    found = engine_status()
    by = "the kernel" if found.forwards == "kernel" else found.forwards
    parts = [f"{found.kind} {found.version}"]
    parts += [f"ports forwarded by {by}"] if by else []
    parts += [f"{found.open_files} open files"] if found.open_files else []
    return ", ".join(parts)


def _warn_of_files() -> None:
    """Say so when the engine may run out of files, and end the published port with that."""
    found = engine_status()
    judged = open_files.judge(found.open_files, found.forwards, found.kind)
    if judged.mend:
        console.warn(f"open files of the engine: {judged.seen}; {', then '.join(judged.mend)}")


def _check_ports(move: moves.Move) -> None:
    """Raise PortInUse for ports that are taken, but not by this stack itself, and for those that cannot be had."""
    ours = containers.published(move.engine, move.name)
    six = sorted({each.address for each in quantities.wanted(move.config) if ":" in each.address})
    if six and move.engine.kind == "embedded" and embedded.forwards() == "kernel":
        raise PortInUse(ports.SIX.format(address=", ".join(six)))
    wanted = [each for each in quantities.wanted(move.config) if each.port not in ours]
    ports.check(wanted, containers.published(move.engine))


def _networks(move: moves.Move) -> None:
    """Make the external networks that are missing, and say so. Raises StackFailed where another stack has our name on one."""
    for network in move.config.get("networks", {}).values():
        name = network.get("name", "")
        if not network.get("external"):
            continue
        if others := containers.strangers(move.engine, move.name, GRANGER, name):
            msg = (
                f"the network {name}: {', '.join(others)} serves there as {overlays.SCALED} already, and clients would reach "
                "either; set GRANGER_NETWORK in .env to a network of your own"
            )
            raise StackFailed(msg)
        if not move.docker.network.exists(name):
            _make(move, name)


def _make(move: moves.Move, name: str) -> None:
    """Make a network. The engine refuses a second one of a name, which another stack may have made at the same moment."""
    from python_on_whales.exceptions import DockerException

    try:
        move.docker.network.create(name)
    except DockerException as failed:
        if not move.docker.network.exists(name):
            raise StackFailed(compose.message(failed)) from failed
        return
    console.step(f"made the network {name}; containers of other projects join it, and `docker network rm` removes it")


def _announce(made: secrets.Made) -> None:
    if made.created:
        console.step("made secrets/: " + ", ".join(made.created))
    if made.client_key:
        console.info("clients present the key in secrets/client_key: Authorization: Bearer $(cat secrets/client_key)")
