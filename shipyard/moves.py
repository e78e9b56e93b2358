"""From the stack that runs to the one that is asked for: the old one serves until the new one can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shipyard import compose, console, containers, entrance, host_api, remembered, rolling
from shipyard.engine import api
from shipyard.errors import StackFailed
from shipyard.models import Project, Selection
from shipyard.overlays import SCALED

if TYPE_CHECKING:
    from python_on_whales import DockerClient

    from shipyard.engine import Engine


BALANCER = "balancer"
#: Seconds that streams get when the balancer itself is exchanged: as long as they last, nobody else is let in.
HASTE = 10


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
        if move.on_host and move.host_api:
            host_api.start(move.project)
        _settle(move)
        remember(move)
    except BaseException as failed:
        if isinstance(failed, StackFailed):
            failed = StackFailed(f"{failed}\n{_last_words(move)}")
        console.step("taking down what had started")
        host_api.stop(move.project)
        move.docker.compose.down(remove_orphans=True, quiet=True)
        raise failed from None


def change(move: Move, before: Mapping[str, str]) -> None:
    """Turn the stack that runs into the one asked for; ``before`` maps ids of its containers to services.

    Raises StackFailed; then the old one is there as it was. From the moment that the new one serves, it is the one.
    """
    where = entrance.place(move.config)
    exchange, begun = rolling.Exchange([], []), 0
    try:
        known = _revive(move, where)
        if not move.on_host:
            exchange = rolling.begin(move.engine, move.docker, move.config, move.selection.scale)
        _up(move, [name for name in move.config["services"] if name not in (SCALED, BALANCER)])
        _refresh(move)
        if move.on_host and move.host_api:
            begun = host_api.prepare(move.project)
        entrance.wait(where, known + len(exchange.new) + begun)
        _exchange_balancer(move, where, len(exchange.new) + begun)
    except BaseException as failed:
        if isinstance(failed, StackFailed):
            failed = StackFailed(f"{failed}\n{_last_words(move)}")
        try:
            rolling.retire(move.docker, exchange.new, force=True)
            host_api.withdraw(move.project)
            if begun:
                host_api.stop(move.project)
            _go_back(move, before)
        except StackFailed as worse:
            msg = f"{failed}\nand going back failed, too: {worse}"
            raise StackFailed(msg) from failed
        raise failed from None
    remember(move)
    if move.on_host:
        host_api.take_over(move.project)
    if exchange.old:
        console.step(f"the old {SCALED} ends its open requests, at most ten minutes")
        rolling.retire(move.docker, exchange.old)
    if not move.on_host:
        host_api.stop(move.project)  # before the ports go by which it reaches redis and claude-proxy
        _up(move)
    # Compose leaves services alone whose profile is off now; in phase 1 it would remove others with the API's containers only.
    there = containers.every(move.engine, move.name)
    rolling.retire(move.docker, [each for each in there if each.service not in (*move.config["services"], SCALED)])
    _settle(move)


def remember(move: Move) -> None:
    """This is what runs from now on, and what a later move goes back to."""
    remembered.start(move.project, move.selection)
    found = {each["image"]: api.image(move.engine.host, each["image"]) for each in move.config["services"].values()}
    remembered.keep(move.project, move.config, {name: each["Id"] for name, each in found.items() if each})


def _refresh(move: Move) -> None:
    """Start services again that have a folder mounted which was replaced, such as secrets that were made anew."""
    there = containers.every(move.engine, move.name)
    stale = [each for each in there if each.service not in (SCALED, BALANCER) and containers.stale(each)]
    if stale:
        console.step(f"restarting {', '.join(each.service for each in stale)}: what is mounted there was replaced")
        rolling.restart(move.engine, move.docker, stale)


def _exchange_balancer(move: Move, where: tuple[str, int], count: int) -> None:
    """The one container that cannot be exchanged beside the old one, for both want the port; last, and only where it differs."""
    there = containers.every(move.engine, move.name, BALANCER)
    old = rolling.outdated(move.engine, move.docker, move.config, there)
    if old:
        console.step(f"the balancer is another one: open streams get {HASTE} s, new requests wait for about two")
        compose.call(lambda: move.docker.container.stop([each.id for each in old], time=HASTE))
        if any(containers.stale(each) for each in there):
            rolling.retire(move.docker, old, force=True)
    if old or not there:
        _up(move, [BALANCER])
        entrance.wait(where, count)


def _revive(move: Move, where: tuple[str, int]) -> int:
    """How many instances the balancer has; it is started where it does not run.

    One that runs and cannot be reached at its port is started again: the engine's own forwarding of the port may have
    ended, and nothing else brings that back.
    """
    running = [each for each in containers.every(move.engine, move.name, BALANCER) if each.running]
    published = any(f":{where[1]}->" in each.ports for each in running)
    known = entrance.found(where) if published else None
    if not running:
        _up(move, [BALANCER])
    elif published and known is None:
        console.warn(f"the balancer does not answer at {where[0]}:{where[1]}; it is started again")
        rolling.restart(move.engine, move.docker, running)
    return known or entrance.instances(where) or 0


def _up(move: Move, services: list[str] | None = None) -> None:
    compose.call(
        lambda: move.docker.compose.up(
            services,
            detach=True,
            wait=True,
            wait_timeout=rolling.WAIT,
            dependencies=services is None,
            remove_orphans=services is None,
            scales={SCALED: move.selection.scale} if services is None and not move.on_host else {},
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
    if host_api.process(move.project):
        if not move.host_api:
            host_api.remind(move.project)
        entrance.wait(where, 1 + sum(1 for each in left if each.well))
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
