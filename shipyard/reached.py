"""Whether the published port of a stack answers to this machine: a container may be healthy, and its port dead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shipyard import containers, entrance
from shipyard.engine import Engine


def published(engine: Engine, found: Iterable[containers.Container]) -> list[dict[str, Any]]:
    """What the balancer's published port answers to this machine, and the command that brings a dead one back.

    Empty without a balancer that runs, or where its port is on another machine.
    """
    if not engine.host.startswith("unix://"):
        return []
    shown = []
    for each in found:
        where = entrance.bound(each.ports) if each.service == "balancer" and each.running else None
        if where:
            answer = entrance.probe(where)
            mend = "" if answer.answers else f"{engine.docker} --host {engine.host} restart {each.id[:12]}"
            address = f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
            shown.append({"port": address, "answers": answer.answers, "seen": answer.seen, "mend": mend})
    return shown
