"""A CycloneDX document for each platform of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from shipyard import console, sbom
from shipyard.world import Step, World


def _done(world: World) -> str:
    facts = world.remembered("sbom")
    if facts is None or facts.get("files") != _sums(world):
        return ""
    return f"{len(facts['files'])} documents are there"


def _run(world: World) -> Mapping[str, Any]:
    sbom.write(world.root, world.folder, world.artifacts, world.commit)
    files = _sums(world)
    console.info(f"{len(files)} documents in {(world.folder / 'sbom').relative_to(world.root)}")
    return {"digests": world.digests, "files": files}


def _sums(world: World) -> dict[str, str]:
    """The SHA-256 of each document that is there, by its name."""
    paths = [sbom.path(world.folder, artifact, part) for artifact in world.artifacts for part in artifact.parts]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


STEP = Step("sbom", _done, _run)
