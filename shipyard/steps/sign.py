"""Sign the index of every image, and each platform's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shipyard import console, signing
from shipyard.world import Step, World


def _done(world: World) -> str:
    if not world.artifacts or not all(signing.signed(world.project, world.registry, each) for each in world.artifacts):
        return ""
    return "every digest carries our signature"


def _run(world: World) -> Mapping[str, Any]:
    made: list[str] = []
    for artifact in world.artifacts:
        world.ours()
        made += signing.sign(world.project, world.registry, artifact)
    console.info(f"{len(made)} signatures made")
    return {"digests": world.digests, "signed": made}


STEP = Step("sign", _done, _run)
