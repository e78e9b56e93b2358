"""What the steps of a release share: the checkout, its commit, the registry, the journal, and what was built so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shipyard import config, source, versions
from shipyard.artifacts import RELEASED, Artifact, Commit
from shipyard.engine import Engine
from shipyard.errors import RegistryFailed
from shipyard.journal import Journal
from shipyard.lease import Lease
from shipyard.models import Image, Project
from shipyard.registry import Registry

#: The steps in their order, with what a person reads of each.
TITLES = {
    "preflight": "everything that would stop a release",
    "bump": "VERSION and CHANGELOG.md, one commit",
    "build": "every image and platform, in one request",
    "test": "the images' tests, against the very bytes",
    "repro": "the same bytes once more, without cache",
    "sbom": "what is in each image",
    "push": "into the registry by digest, no tag yet",
    "sign": "a signature for every digest",
    "attest": "SBOM and provenance, outside the image",
    "verify": "as a stranger would, with the public key only",
    "promote": "public tags, the git tag, dist/",
}


@dataclass(frozen=True)
class Options:
    """What the user asked ``release`` for. ``registry`` is ``HOST[:PORT][/PREFIX]``; ``skip_repro`` is a reason, or empty."""

    registry: str
    bump: str = ""
    dry_run: bool = False
    allow_detached: bool = False
    skip_repro: str = ""
    #: The last step that is wanted.
    until: str = "promote"


@dataclass(frozen=True)
class Step:
    """One step. ``done`` asks the world and says why there is nothing to do, or says nothing; ``run`` gives the journal's facts."""

    name: str
    done: Callable[[World], str]
    run: Callable[[World], Mapping[str, Any]]

    @property
    def title(self) -> str:
        """What a person reads."""
        return TITLES[self.name]


class World:
    """One release as it is now. Steps replace ``project``, ``commit`` and ``artifacts`` as these come about."""

    def __init__(
        self, project: Project, options: Options, engine: Callable[[], Engine], lease: Lease | None = None
    ) -> None:
        self.options, self._engine, self._lease = options, engine, lease
        self.commit: Commit = source.commit(project.root)
        # What is committed counts: a killed bump may have left another VERSION in the tree.
        self.current = (source.text(project.root, "HEAD", "VERSION") or project.version).strip()
        self.version = _wanted(project.root, self.current, options.bump)
        self.project = Project(**{**vars(project), "version": self.version})
        self.artifacts: tuple[Artifact, ...] = ()
        #: Names of the steps that have to run, as far as could be told before the first one did.
        self.pending: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.project.root

    @property
    def releases(self) -> Path:
        """Folder of all releases of this checkout."""
        return self.project.state / "release"

    @property
    def folder(self) -> Path:
        """Folder of this release: layouts, SBOMs, provenance."""
        return self.releases / self.version

    @property
    def journal(self) -> Journal:
        """The lines of this release."""
        return Journal(self.releases / f"{self.version}.jsonl")

    @property
    def tag(self) -> str:
        """The git tag."""
        return f"v{self.version}"

    @property
    def bumped(self) -> bool:
        """Whether the commit that is checked out is of the wanted version."""
        return self.current == self.version

    @cached_property
    def engine(self) -> Engine:
        """The engine, started if there is none; asked for only by steps that need one."""
        return self._engine()

    @cached_property
    def registry(self) -> Registry:
        """A client of the registry."""
        return Registry(self.options.registry.partition("/")[0])

    def reconnect(self) -> None:
        """Forget the client of the registry: one whose push failed has stopped."""
        self.__dict__.pop("registry", None)

    def answers(self) -> bool:
        """Whether the registry answers now."""
        try:
            self.registry.ping()
        except RegistryFailed:
            return False
        return True

    @property
    def images(self) -> list[tuple[Image, str]]:
        """Every image with each target that is released."""
        every = ((image, target) for image in self.project.images.values() for target in RELEASED)
        return [(image, target) for image, target in every if target in image.targets]

    def repository(self, image: Image) -> str:
        """A repository with its registry."""
        return f"{self.options.registry.rstrip('/')}/{image.repository}"

    def path(self, image: Image) -> str:
        """A repository as its registry calls it."""
        return self.repository(image).partition("/")[2]

    @property
    def digests(self) -> dict[str, str]:
        """What was built, by image and target: by this the journal knows again what its lines are about."""
        return {artifact.key: artifact.digest for artifact in self.artifacts}

    def reload(self) -> None:
        """Read the checkout again, after a commit of our own."""
        self.commit = source.commit(self.root)
        self.project = config.load(self.root)
        self.current = self.project.version

    def remembered(self, step: str) -> Mapping[str, Any] | None:
        """The journal's facts of a step that succeeded for exactly these digests."""
        return self.journal.facts(step, digests=self.digests) if self.artifacts else None

    def ours(self) -> None:
        """Ask before each write that others see. Raises ReleaseBusy when the lease was lost."""
        if self._lease:
            self._lease.check()


def lease_of(project: Project) -> Path:
    """Where the lease lies that whoever moves something of a checkout's releases must hold."""
    return project.state / "release" / "lease.json"


def _wanted(root: Path, current: str, bump: str) -> str:
    """The version to release. A bump that an earlier run committed, and nothing was since, is not done once more."""
    if not bump:
        return current
    before = (source.text(root, "HEAD^", "VERSION") or "").strip()
    if before and source.subject(root, "HEAD") == f"Release {current}" and versions.bump(before, bump) == current:
        return current
    return versions.bump(current, bump)
