"""What the moving tags of a repository name, and whether a release explains it."""

from __future__ import annotations

from functools import cached_property

from shipyard import tags, versions
from shipyard.registry import Registry
from shipyard.versions import Version


class Tags:
    """The tags of one repository, of one target."""

    def __init__(self, registry: Registry, repository: str, target: str) -> None:
        self.registry, self.repository, self.target = registry, repository, target

    @cached_property
    def existing(self) -> tuple[str, ...]:
        """Every tag there."""
        return self.registry.tags(self.repository)

    def names(self, tag: str) -> str | None:
        """The digest that a tag names; None when there is no such tag."""
        return self.registry.head(self.repository, tag)

    def misplaced(self, alias: str, digest: str, known: str) -> str:
        """Why a moving tag should not name a digest; empty when it may. ``known`` is what this checkout moved it to last."""
        release = self._release(alias, digest)
        if release is None:
            return f"which is no release of {self.target} that it may name"
        # A newer release may have been made elsewhere; back to an older one leads only a promotion, which is recorded.
        if known and release < Version(known):
            return f"which is {release}; this checkout promoted {known} last"
        return ""

    def _release(self, alias: str, digest: str) -> Version | None:
        """The version whose image a digest is, of those that the moving tag may name, the newest first."""
        candidates = (each for each in reversed(versions.of(self.existing, self.target)))
        return next((each for each in candidates if self._fits(each, alias, digest)), None)

    def _fits(self, version: Version, alias: str, digest: str) -> bool:
        text = str(version)
        return alias in versions.aliases(text, self.target) and self.names(tags.tag(text, self.target)) == digest
