"""What this checkout remembers of its stack between two commands: small files in .shipyard/."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipyard.machine import replace
from shipyard.models import Project, Selection


@dataclass(frozen=True)
class Started:
    """The selection that was started last, since when it is the one (UTC), and the process that asked for it."""

    selection: Selection
    since: str
    owner: int


def started(project: Project) -> Started | None:
    """What was started last; None when nothing is remembered, or what is there was damaged."""
    try:
        found = json.loads(_file(project).read_text())
        selection = Selection(str(found["overlay"]), tuple(found["add_ons"]), int(found["scale"]))
        return Started(selection, str(found["since"]), int(found["owner"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def start(project: Project, selection: Selection) -> None:
    """Remember the selection as ours, since now unless it is the same one."""
    earlier = started(project)
    since = earlier.since if earlier and earlier.selection == selection else datetime.now(UTC).strftime("%F %T")
    said = {"overlay": selection.overlay, "add_ons": selection.add_ons, "scale": selection.scale}
    replace(_file(project), json.dumps({**said, "since": since, "owner": os.getpid()}))


def forget(project: Project) -> None:
    """Nothing runs any more."""
    _file(project).unlink(missing_ok=True)
    configuration(project).unlink(missing_ok=True)


def configuration(project: Project) -> Path:
    """The effective configuration of the last start that worked; a Compose file, there to go back to."""
    return project.state / "running.json"


def keep(project: Project, config: Mapping[str, Any], images: Mapping[str, str]) -> None:
    """Keep a configuration; ``images`` maps its references to image ids, so that a moved tag does not change it."""
    services = {name: _readable(service, images) for name, service in config.get("services", {}).items()}
    replace(configuration(project), json.dumps({**config, "services": services}), 0o600)


def pin(project: Project, services: Mapping[str, Any]) -> Path:
    """Keep what a start says of its services after all other Compose files (``compose.pins``). Returns the file."""
    place = project.state / "images.json"
    replace(place, json.dumps({"services": services}, indent=2) + "\n")
    return place


def built(project: Project) -> dict[str, str]:
    """The digest of the image that this checkout built, or found current, last under each reference."""
    try:
        found = json.loads(_built(project).read_text())
        return {str(reference): str(digest) for reference, digest in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def keep_built(project: Project, digests: Mapping[str, str]) -> None:
    """Remember digests by their references, beside those of other references."""
    earlier = built(project)
    if (now := {**earlier, **digests}) != earlier:
        replace(_built(project), json.dumps(now, indent=2) + "\n")


def _built(project: Project) -> Path:
    return project.state / "built.json"


def _readable(service: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    """A service as Compose can read it again: it writes a limit of 0 as an empty table, which it does not accept itself."""
    limits = {name: limit or 0 for name, limit in (service.get("ulimits") or {}).items()}
    image = str(service.get("image", ""))
    return {**service, "image": images.get(image, image), **({"ulimits": limits} if limits else {})}


def _file(project: Project) -> Path:
    return project.state / "stack.json"
