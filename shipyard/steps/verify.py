"""Look at what was pushed as a stranger would, with the public key only, before any tag names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from shipyard import console, verification
from shipyard.world import Step, World


def _done(world: World) -> str:
    # Where a tag is about to move, or a signature was missing, what was good some time ago is looked at again.
    return "" if "verify" in world.pending or not world.remembered("verify") else "it was good before its tags moved"


def _run(world: World) -> Mapping[str, Any]:
    report = verification.verify_artifacts(world.project, world.artifacts)
    verification.demand(report)
    attached = {
        f"{each.name}-{each.target}": [asdict(one) for one in (*each.signatures, *each.attestations)]
        for each in report.images
    }
    console.info(f"{sum(map(len, attached.values()))} signatures and attestations are good")
    return {"digests": world.digests, "attached": attached, "cosign": report.cosign}


STEP = Step("verify", _done, _run)
