"""VERSION, the changelog from its fragments, one commit. The tree changes at the end, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shipyard import changelog, console, source
from shipyard.world import Step, World


def _done(world: World) -> str:
    if not world.bumped or not world.commit.clean:
        return ""
    return f"{world.commit.revision[:12]} is {world.version} already"


def _run(world: World) -> Mapping[str, Any]:
    world.ours()
    earlier = (world.journal.unfinished("bump") or {}).get("commit")
    if earlier and source.halfway(world.root, earlier):
        source.finish(world.root, earlier)  # a kill left the tree between the two commits
    else:
        earlier = _commit(world)
        # With this line the next run knows where a tree that is between the two is going.
        world.journal.write("bump", "begun", {"commit": earlier, "from": world.current, "to": world.version})
        source.forward(world.root, earlier)
    console.info(f"{world.current} -> {world.version}, commit {earlier[:12]}")
    before = world.current
    world.reload()
    return {"commit": earlier, "from": before, "to": world.version}


def _commit(world: World) -> str:
    today = datetime.now(UTC).date().isoformat()
    with changelog.written(world.root, world.version, today) as files:
        return source.record(world.root, world.commit.revision, files, f"Release {world.version}")


STEP = Step("bump", _done, _run)
