"""Bring every image into the registry by its digest. No tag names it yet; what is there is not sent again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shipyard import console, publishing
from shipyard.errors import BuildFailed
from shipyard.world import Step, World


def _done(world: World) -> str:
    if not world.artifacts or not all(publishing.present(world.registry, each) for each in world.artifacts):
        return ""
    return f"{world.registry.host} has every digest"


def _run(world: World) -> Mapping[str, Any]:
    _tested(world)
    paths = [world.path(image) for image in world.project.images.values()]
    sent = count = skipped = 0
    for artifact in world.artifacts:
        world.ours()
        pushed = publishing.push(world.registry, artifact, paths)
        sent, count, skipped = sent + pushed.bytes, count + pushed.sent, skipped + pushed.skipped
    console.info(f"{console.megabytes(sent)} in {count} blobs sent, {skipped} were there")
    return {"digests": world.digests, "bytes": sent, "blobs": count, "skipped": skipped}


def _tested(world: World) -> None:
    """Raises BuildFailed unless the journal says that these very digests passed their tests."""
    if world.remembered("test") is None:
        untested = ", ".join(f"{key} {digest}" for key, digest in world.digests.items()) or "nothing was built"
        msg = (
            f"no line of {world.journal.path} says that these bytes passed their tests ({untested}); "
            "nothing was pushed. Run the same command again: it tests them"
        )
        raise BuildFailed(msg)


STEP = Step("push", _done, _run)
