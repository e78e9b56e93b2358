"""Attach what is known of each image to it: an SBOM to each platform, the provenance to the index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shipyard import console, sbom, signing, statement
from shipyard.artifacts import Artifact
from shipyard.world import Step, World

_SBOM, _PROVENANCE = "cyclonedx", "slsaprovenance1"


def _done(world: World) -> str:
    ask = signing.attested
    if not world.artifacts or not all(
        ask(world.project, world.registry, artifact, kind, digest) for artifact, kind, digest, _ in _wanted(world)
    ):
        return ""
    return "every platform has its SBOM, every image its provenance"


def _run(world: World) -> Mapping[str, Any]:
    statement.write(world)
    made = 0
    for artifact, kind, digest, document in _wanted(world):
        world.ours()
        made += signing.attest(world.project, world.registry, artifact, kind, document, digest)
    console.info(f"{made} attestations made")
    return {"digests": world.digests, "attested": made}


def _wanted(world: World) -> Iterator[tuple[Artifact, str, str, Path]]:
    """What is to be attached: its kind, the digest that it is about, its document."""
    for artifact in world.artifacts:
        for part in artifact.parts:
            yield artifact, _SBOM, part.digest, sbom.path(world.folder, artifact, part)
        yield artifact, _PROVENANCE, artifact.digest, statement.path(world, artifact)


STEP = Step("attest", _done, _run)
