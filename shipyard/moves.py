"""From the stack that runs to the one that is asked for: the old one serves until the new one can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shipyard import compose, console, containers, entrance, host_api, remembered, rolling
from shipyard.errors import StackFailed
from shipyard.models import Project, Selection
from shipyard.overlays import SCALED

if TYPE_CHECKING:
    from python_on_whales import DockerClient

    from shipyard.engine import Engine


@dataclass(frozen=True)
class Move:
    """Everything that a move needs: what is asked for, and its client and effective configuration."""

    project: Project
    engine: Engine
    selection: Selection
    docker: DockerClient
    config: Mapping[str, Any]
    host_api: bool

    @property
    def name(self) -> str:
        """The Compose project."""
        return str(self.config["name"])

    @property
    def on_host(self) -> bool:
        """Whether the API is to be a process of the host."""
        return self.selection.overlay == "host"


def fresh(move: Move) -> None:
    """Start a stack where none runs. Raises StackFailed; then nothing stays half up."""
    try:
        _up(move)
        _settle(move)
    except BaseException as failed:
        if isinstance(failed, StackFailed):
            failed = StackFailed(f"{failed}\n{_last_words(move)}")
        console.step("taking down what had started")
        host_api.stop(move.project)
        move.docker.compose.down(remove_orphans=True, quiet=True)
        raise failed from None


def change(move: Move, before: Mapping[str, str]) -> None:
    """Turn the stack that runs into the one asked for; ``before`` maps ids of its containers to services.

    Raises StackFailed; then the old one is there as it was.
    """
    where = entrance.place(move.config)
    known = _revive(move, where)
    exchange = (
        rolling.Exchange([], [])
        if move.on_host
        else rolling.begin(move.engine, move.docker, move.config, move.selection.scale)
    )
    try:
        others = [name for name in move.config["services"] if name != SCALED]
        _up(move, others)
        if exchange.new:
            entrance.wait(where, known + len(exchange.new))
        elif move.on_host and move.host_api and not host_api.process(move.project):
            host_api.start(move.project, move.project.state / "host.env")
            entrance.wait(where, known + 1)
    except BaseException as failed:
        if isinstance(failed, StackFailed):
            failed = StackFailed(f"{failed}\n{_last_words(move)}")
        rolling.retire(move.docker, exchange.new, force=True)
        _go_back(move, before)
        raise failed from None
    if exchange.old:
        console.step(f"the old {SCALED} ends its open requests, at most ten minutes")
        rolling.retire(move.docker, exchange.old)
    if not move.on_host:
        _up(move)
    else:  # Compose would remove these only together with the API's containers
        there = containers.every(move.engine, move.name)
        rolling.retire(move.docker, [each for each in there if each.service not in (*move.config["services"], SCALED)])
    _settle(move)


def _revive(move: Move, where: tuple[str, int]) -> int:
    """How many instances the balancer has. One that runs and cannot be reached at its port is started again: the engine's own
    forwarding of the port may have ended, and nothing else brings that back.
    """
    running = [each for each in containers.every(move.engine, move.name, "balancer") if each.running]
    known = entrance.instances(where)
    if known is None and any(f":{where[1]}->" in each.ports for each in running):
        console.warn(f"the balancer does not answer at {where[0]}:{where[1]}; it is started again")
        compose.call(lambda: move.docker.container.restart([each.id for each in running]))
        containers.wait_healthy(move.engine, running, rolling.WAIT)
        known = entrance.instances(where)
    return known or 0


def _up(move: Move, services: list[str] | None = None) -> None:
    compose.call(
        lambda: move.docker.compose.up(
            services,
            detach=True,
            wait=True,
            wait_timeout=rolling.WAIT,
            dependencies=services is None,
            remove_orphans=services is None,
            scales={} if move.on_host else {SCALED: move.selection.scale} if services is None else {},
            quiet=True,
        )
    )


def _settle(move: Move) -> None:
    """The API where it belongs, and nothing of it anywhere else."""
    where = entrance.place(move.config)
    if not move.on_host:
        entrance.wait(where, move.selection.scale)
        host_api.stop(move.project)
        return
    left = containers.every(move.engine, move.name, SCALED)
    if move.host_api:
        host_api.start(move.project, move.project.state / "host.env")
    if host_api.process(move.project):
        entrance.wait(where, 1 + sum(1 for each in left if each.running))
        rolling.retire(move.docker, left)
    else:
        console.step(
            "start the API: set -a; . .shipyard/host.env; set +a; python -m llm_call.api    (or: invoke host --api)"
        )
        if left:
            console.step(f"until then {SCALED} goes on in its container; `invoke host` again removes that")


def _last_words(move: Move) -> str:
    return containers.last_words(move.engine, containers.every(move.engine, move.name))


def _go_back(move: Move, before: Mapping[str, str]) -> None:
    """Renew what the attempt has changed, from the configuration that was kept, and remove what it has added."""
    console.step("going back to the stack as it was")
    now = {each.id: each for each in containers.every(move.engine, move.name)}
    lost = {service for name, service in before.items() if name not in now or not now[name].running}
    added = [each for each in now.values() if each.service not in before.values()]
    rolling.retire(move.docker, added, force=True)
    file = remembered.configuration(move.project)
    if lost and file.exists():
        docker = compose.from_file(move.project, move.engine, file)
        compose.call(
            lambda: docker.compose.up(
                sorted(lost), detach=True, wait=True, wait_timeout=60, dependencies=False, quiet=True
            )
        )
