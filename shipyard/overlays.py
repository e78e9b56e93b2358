"""Which Compose files a stack is made of, what they come to, and whether production is as it has to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shipyard import compose, policy, quantities
from shipyard.diagnosis import engine as judge
from shipyard.diagnosis.finding import FAIL
from shipyard.engine import api, daemon
from shipyard.errors import ConfigError, EngineFailed, UnknownName
from shipyard.models import Fault, Project, Selection
from shipyard.names import perhaps

if TYPE_CHECKING:
    from shipyard.engine import Engine

#: One of these is what runs; its file is compose/NAME.yaml. What each is called on the road from host to production.
PHASES = {"host": "phase 1", "hybrid": "phase 2", "prod": "phase 3", "dev": "development"}
#: Further files that combine with each of them.
ADD_ONS = ("gpu", "granger", "monitoring")
#: Services that --scale may multiply, and the most instances that a balancer looks for (docker/balancer/haproxy.cfg).
SCALED, MOST = "llm-call-api", 16


def select(overlay: str, add_ons: Iterable[str] = (), scale: Iterable[str] = ()) -> Selection:
    """What a person asked for, such as ``prod``, ``["granger"]``, ``["llm-call-api=3"]``.

    Raises UnknownName with everything that is unknown.
    """
    name, *more = overlay.split("+")
    wanted = tuple(each for each in ADD_ONS if each in {*more, *add_ons})
    problems = []
    if name not in PHASES:
        problems.append(f'overlay "{name}": there is no compose/{name}.yaml; {perhaps(name, PHASES)}')
    problems += [
        f'add-on "{each}": there is none of that name; {perhaps(each, ADD_ONS)}'
        for each in (*more, *add_ons)
        if each not in ADD_ONS
    ]
    count = 1
    for each in scale:
        service, _, number = each.partition("=")
        if service != SCALED:
            problems.append(f'--scale {each}: only {SCALED} can have several instances; write "{SCALED}=3"')
        elif not number.isdecimal() or not 1 <= int(number) <= MOST:
            problems.append(f'--scale {each}: "{number}" is not a number from 1 to {MOST}; write "{SCALED}=3"')
        else:
            count = int(number)
    if name == "host" and count > 1:
        problems.append(f"--scale: in phase 1 {SCALED} is one process of the host; use hybrid or prod")
    if problems:
        raise UnknownName("\n".join(problems))
    return Selection(name, wanted, count)


def effective(project: Project, engine: Engine, selection: Selection) -> dict[str, Any]:
    """The configuration with every variable filled in, without what tests add."""
    found = compose.config(compose.client(project, engine, selection, extra=False))
    return {key: value for key, value in found.items() if not key.startswith("x-")}


def show(project: Project, engine: Engine, overlay: str, other: str = "") -> dict[str, Any]:
    """The configuration of ``prod`` or ``prod+granger`` by place or, with another one, what differs there."""
    found = effective(project, engine, select(overlay))
    if other:
        return {f"from {overlay} to {other}": policy.difference(found, effective(project, engine, select(other)))}
    return dict(policy.flat(found))


def check(project: Project, engine: Engine, selection: Selection) -> None:
    """Raise ConfigError with everything that must not be in production; other overlays are free."""
    if selection.overlay != "prod":
        return
    found = policy.faults(effective(project, engine, selection), project.root)
    if found:
        raise ConfigError(found)


def beyond(engine: Engine, config: Mapping[str, Any], settings: Mapping[str, str]) -> list[Fault]:
    """What of a configuration the engine would refuse one at a time and too late, or cannot keep: processors, memory, ports."""
    info = api.get(engine.host, "/info") or {}
    there, memory = int(info.get("NCPU") or 0), int(info.get("MemTotal") or 0)
    return [*quantities.beyond(config, settings, there, memory), *quantities.ports(config)]


def possible(engine: Engine) -> None:
    """Raise EngineFailed for an engine by whose settings every start fails, before anything is made or started."""
    if not api.speaks(engine.host):
        return
    found = judge.settings(api.get(engine.host, "/info") or {}, daemon.settings(engine.host))
    if found.state == FAIL:
        raise EngineFailed(f"{engine.host}: {found.seen};\n" + ";\n".join(found.mend))


def unreadable(project: Project) -> list[Fault]:
    """Files that containers read as another user than the checkout's owner, and that are closed to others."""
    names = ("config", "config/models.toml", "config/mcp.toml", "config/monitoring", "src")
    hint = "the services run as a user of their own; chmod -R go+rX config src"
    closed = [name for name in names if not (project.root / name).stat().st_mode & 0o004]
    return [Fault(name, "is not readable by others", hint) for name in closed]
