"""Build every released image for all its platforms, in one request; the layouts are what is tested and pushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shipyard import bases, console, growth, release_build, tags
from shipyard.artifacts import Artifact
from shipyard.engine import api
from shipyard.errors import BuildFailed
from shipyard.layouts import Layout
from shipyard.models import Image
from shipyard.run import run
from shipyard.world import Step, World


def _done(world: World) -> str:
    facts = world.journal.facts("build", commit=world.commit.revision) or {}
    digests = facts.get("digests") or {}
    try:
        found = tuple(_artifact(world, image, target) for image, target in world.images)
    except BuildFailed:
        return ""
    if {each.key: each.digest for each in found} != digests or not all(Layout(each.layout).present() for each in found):
        return ""
    world.artifacts = found
    return f"{len(found)} layouts of {world.commit.revision[:12]} are in {world.folder.relative_to(world.root)}"


def _artifact(world: World, image: Image, target: str) -> Artifact:
    """What lies in a layout's folder. Raises BuildFailed when it is missing or damaged."""
    layout = Layout(world.folder / f"{image.name}-{target}")
    tag = tags.tag(world.version, target)
    repository = world.repository(image)
    return Artifact(image.name, target, repository, tag, layout.digest, layout.path, layout.parts())


def _run(world: World) -> Mapping[str, Any]:
    world.artifacts = release_build.build(
        world.project, world.engine, world.commit, world.folder, world.options.registry
    )
    for artifact in world.artifacts:
        sizes = ", ".join(f"{part.platform} {console.megabytes(part.size)}" for part in artifact.parts)
        console.info(f"{artifact.key}  {artifact.digest[:19]}  {sizes}")
    grown = growth.told(world.project, world.artifacts)
    for line in grown:
        console.warn(line)
    base = bases.remembered(world.engine, world.project.base)
    return {
        "digests": world.digests,
        "commit": world.commit.revision,
        "base": {"reference": base.reference, "digest": base.digest} if base else None,
        "versions": _versions(world),
        "grown": grown,
    }


def _versions(world: World) -> dict[str, str]:
    """What built it, for the provenance."""
    engine = world.engine
    said = run([engine.docker, "buildx", "version"], env=engine.environment(), timeout=60).stdout.split()
    return {"docker": api.version(engine.host) or "", "buildx": said[1] if len(said) > 1 else ""}


STEP = Step("build", _done, _run)
