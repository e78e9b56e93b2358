"""Build once more from another folder, as somebody else, without cache: the same bytes, or no release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shipyard import console, repro
from shipyard.errors import NotReproducible
from shipyard.world import Step, World


def _done(world: World) -> str:
    facts = world.remembered("repro")
    if facts is None:
        return ""
    # Of what is public already, the provenance has said it: another flag now changes nothing.
    if facts.get("skipped", "") != world.options.skip_repro and world.remembered("promote") is None:
        return ""
    return f"left out: {facts['skipped']}" if facts.get("skipped") else "these bytes were rebuilt"


def _run(world: World) -> Mapping[str, Any]:
    if reason := world.options.skip_repro:
        console.warn(f"not rebuilt, which the provenance will say: {reason}")
        return {"digests": world.digests, "skipped": reason}
    images = tuple(world.project.images)
    if found := repro.check(world.project, world.engine, world.commit, world.artifacts, images):
        msg = "\n".join([*map(str, found), "--skip-repro REASON releases all the same, and the provenance says so"])
        raise NotReproducible(msg)
    return {"digests": world.digests, "skipped": ""}


STEP = Step("repro", _done, _run)
