"""Frozen types that travel between the layers. They hold data and derive names; they start nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Labels under which an image carries what it was built from (reverse-DNS style, as OCI annotations ask).
LABEL_INPUTS = "io.llm-call.shipyard.inputs"
LABEL_FILES = "io.llm-call.shipyard.files"
#: The build arguments of a target that takes some, as JSON; the Dockerfile's own values are left out.
LABEL_ARGUMENTS = "io.llm-call.shipyard.arguments"
LABEL_TARGET = "io.llm-call.shipyard.target"
LABEL_PLATFORMS = "io.llm-call.shipyard.platforms"
#: Of a container that was started by its image's digest: the reference that Compose's files have.
LABEL_REFERENCE = "io.llm-call.shipyard.reference"
#: The end of the names of build arguments that say how many things are done at once: they change no byte.
JOBS = "_BUILD_JOBS"


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a file: its place, what is wrong, and what to try."""

    place: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        """``place: problem; hint``."""
        return f"{self.place}: {self.problem}" + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Image:
    """One image of ``docker/images.toml``. ``budget`` is in bytes, uncompressed, by target.

    ``only`` has the platforms of targets that cannot be had for all of them; ``arguments`` the variables that a target's
    build takes from the environment.
    """

    name: str
    repository: str
    context: str
    dockerfile: str
    title: str
    targets: tuple[str, ...]
    platforms: tuple[str, ...]
    budget: Mapping[str, int] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def platforms_of(self, target: str) -> tuple[str, ...]:
        """The platforms that a target is built for."""
        return self.only.get(target, self.platforms)


@dataclass(frozen=True)
class BaseImage:
    """The root of trust that ``docker/images.toml`` names, for instance ``debian:trixie-slim``."""

    image: str
    suite: str


@dataclass(frozen=True)
class Project:
    """A checkout with its version, its images and what labels say about it."""

    root: Path
    version: str
    source: str
    licenses: str
    base: BaseImage
    images: Mapping[str, Image]

    @property
    def state(self) -> Path:
        """Folder for what belongs to this checkout alone; git-ignored."""
        return self.root / ".shipyard"


@dataclass(frozen=True)
class Base:
    """The base image as it is used: ``reference`` can be built from, ``digest`` identifies it, ``origin`` is hub or bootstrap."""

    reference: str
    digest: str
    origin: str


@dataclass(frozen=True)
class Job:
    """One image, target and set of platforms to be built, with everything that decides its content.

    ``arguments`` are build arguments of the user's; without one the Dockerfile's own value counts. ``owner`` is the mark of
    the checkout that builds it.
    """

    image: Image
    target: str
    platforms: tuple[str, ...]
    reference: str
    files: Mapping[str, str]
    inputs: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""

    @property
    def key(self) -> str:
        """Name of this job in a bake request."""
        return f"{self.image.name}-{self.target}"

    @property
    def remembered(self) -> Mapping[str, str]:
        """The arguments that decide its content: without those that say how many things are done at once."""
        return {name: value for name, value in self.arguments.items() if not name.endswith(JOBS)}

    @property
    def candidate(self) -> str:
        """The reference that is built, this checkout's alone; it becomes ``reference`` once the image has passed its checks."""
        return f"{self.reference}-candidate-{self.owner}"


@dataclass(frozen=True)
class BuildResult:
    """What became of one job. ``size`` is in bytes, uncompressed; ``seconds`` is wall time until this image was done."""

    name: str
    target: str
    platform: str
    reference: str
    digest: str
    size: int
    status: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Selection:
    """A stack as asked for: an overlay, the add-ons that combine with it, and how many instances of the API."""

    overlay: str
    add_ons: tuple[str, ...] = ()
    scale: int = 1

    def __str__(self) -> str:
        """``prod+granger``."""
        return "+".join((self.overlay, *self.add_ons))
