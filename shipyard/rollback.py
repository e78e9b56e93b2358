"""Moves X.Y, X and latest to a release that is public already, back or forward again. Its own tags and bytes stay.

The journal of that version says so. `invoke release` never moves the aliases of a release that was public before, so a
release that is run again does not undo a rollback; the next newer version does, as does this command.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipyard import console, lease, promotion, publishing, verification, versions
from shipyard.artifacts import Artifact, Published
from shipyard.errors import ReleaseRefused
from shipyard.journal import Journal
from shipyard.models import Project
from shipyard.registry import Registry
from shipyard.world import lease_of


def promote(project: Project, version: str, registry: str) -> Mapping[str, Any]:
    """Verify a version as a stranger would, then move its aliases to it; what moved, by image and target.

    ``registry`` is ``HOST[:PORT][/PREFIX]``. Raises VerificationFailed and moves nothing when anything is wrong with it,
    ReleaseRefused for what is no version or has no aliases, ReleaseBusy during a release.
    """
    if reason := versions.problem(version):
        raise ReleaseRefused(reason)
    if not versions.aliases(version, "prod"):
        msg = f"{version} is a pre-release, to which no other tag leads; name a release"
        raise ReleaseRefused(msg)
    path = lease_of(project)
    with lease.held(path, f"invoke promote of {version}") as held:
        report = verification.verify(project, version, registry, verification.RELEASE)
        verification.demand(report, aliases=False)  # those are what it mends
        journal = Journal(path.with_name(f"{version}.jsonl"))
        journal.write("promote", "begun", {"registry": registry})
        moved: dict[str, dict[str, str | None]] = {}
        client = Registry(registry.partition("/")[0])
        promotion.state(
            project, client, promotion.wanted((_artifact(each, version), version) for each in report.images)
        )
        for image in report.images:
            artifact = _artifact(image, version)
            for name in versions.aliases(version, image.target):
                held.check()
                for each in publishing.move(client, artifact, [name]):
                    moved.setdefault(artifact.key, {})[each.tag] = each.before
                    console.step(f"{image.repository}:{each.tag} names {version} now ({image.digest[:19]})")
        if not moved:
            console.skip(f"every alias names {version} already")
        digests = {f"{image.name}-{image.target}": image.digest for image in report.images}
        journal.write("promote", "done", {"digests": digests, "registry": registry, "moved": moved})
    return {"version": version, "moved": moved}


def _artifact(image: Published, version: str) -> Artifact:
    """What is moved to: known by its digest alone, as its layout may be gone."""
    tag = versions.moving(version, image.target, ())[0]
    return Artifact(image.name, image.target, image.repository, tag, image.digest, Path(), ())
