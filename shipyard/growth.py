"""How much larger the images of a release are than those of the release before, by what their registry stores of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shipyard import console, recorded
from shipyard.artifacts import Artifact
from shipyard.models import Image, Project

#: The part of its size by which an image may grow without anybody having changed its budget.
TOLERATED = 0.01


def told(project: Project, artifacts: Iterable[Artifact]) -> list[str]:
    """A sentence for each platform of each image that grew by more than is tolerated; none where there was no release before.

    Who meant it says so with another budget in docker/images.toml; a budget is a fault when it is broken, growth is told.
    """
    version, before = recorded.sizes(project)
    declared = recorded.declared(project, version) if version else {}
    return [
        line
        for artifact in artifacts
        if not _meant(declared.get(artifact.name), project.images[artifact.name], artifact.target)
        for line in _lines(artifact, version, before.get(artifact.key, {}))
    ]


def _meant(before: Image | None, now: Image, target: str) -> bool:
    return before is not None and before.budget.get(target) != now.budget.get(target)


def _lines(artifact: Artifact, version: str, before: Mapping[str, int]) -> Iterable[str]:
    for part in artifact.parts:
        was = before.get(part.platform, 0)
        if was and part.size > was * (1 + TOLERATED):
            sizes = f"{console.megabytes(was)} in {version}, {console.megabytes(part.size)} now"
            yield (
                f"{artifact.key} {part.platform} grew by {100 * (part.size / was - 1):.1f} % ({sizes}, compressed); "
                "`invoke size` shows what is in it, another budget in docker/images.toml says that it is meant"
            )
