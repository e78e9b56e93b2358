"""What an overlay comes to, how two of them differ, and whether production is as it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shipyard import compose, policy
from shipyard.errors import ConfigError, UnknownName
from shipyard.models import Project
from shipyard.names import perhaps
from shipyard.stack import TARGETS

if TYPE_CHECKING:
    from shipyard.engine import Engine


def effective(project: Project, engine: Engine, overlay: str) -> dict[str, Any]:
    """The overlay's configuration with every variable filled in, without what tests add. Raises UnknownName."""
    if overlay not in TARGETS:
        msg = f'overlay "{overlay}": there is no compose/{overlay}.yaml; {perhaps(overlay, list(TARGETS))}'
        raise UnknownName(msg)
    found = compose.config(compose.client(project, engine, overlay, extra=False))
    return {key: value for key, value in found.items() if not key.startswith("x-")}


def show(project: Project, engine: Engine, overlay: str, other: str = "") -> dict[str, Any]:
    """The configuration by place or, with another overlay, what differs there."""
    found = effective(project, engine, overlay)
    if other:
        return {f"from {overlay} to {other}": policy.difference(found, effective(project, engine, other))}
    return dict(policy.flat(found))


def check(project: Project, engine: Engine, overlay: str) -> None:
    """Raise ConfigError with everything that must not be in production; other overlays are free."""
    if overlay != "prod":
        return
    if faults := policy.faults(effective(project, engine, overlay)):
        raise ConfigError(faults)
