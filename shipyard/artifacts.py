"""Frozen types of a release: what is built, published, signed and written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Targets that a release publishes; dev and debug are for developers and stay on their machines.
RELEASED = ("prod", "local", "cuda")


@dataclass(frozen=True)
class Part:
    """One platform's image of an index. ``size`` is the sum of its compressed blobs in bytes, ``layers`` their digests."""

    platform: str
    digest: str
    size: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Artifact:
    """One image and target of a release: a multi-platform index that lies in an OCI layout folder.

    ``repository`` includes the registry (``127.0.0.1:5000/llm-call-api``), ``tag`` is the version's (``1.2.3-cuda``),
    ``digest`` that of the index.
    """

    name: str
    target: str
    repository: str
    tag: str
    digest: str
    layout: Path
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        """Name in journals, folders and reports: ``api-prod``."""
        return f"{self.name}-{self.target}"

    @property
    def reference(self) -> str:
        """What is pushed, signed and verified: the repository at the digest."""
        return f"{self.repository}@{self.digest}"

    @property
    def tagged(self) -> str:
        """What a person pulls once the release is promoted."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True)
class Commit:
    """The source of a release. ``epoch`` is the commit's time in seconds since 1970, ``branch`` empty when HEAD is detached."""

    revision: str
    epoch: int
    branch: str
    clean: bool


@dataclass(frozen=True)
class Layer:
    """One layer as the registry stores it: ``size`` in compressed bytes, ``created_by`` as the image's history tells it."""

    digest: str
    size: int
    created_by: str


@dataclass(frozen=True)
class Platform:
    """One platform of a published image: ``digest`` of its manifest, ``size`` the sum of its compressed blobs in bytes."""

    platform: str
    digest: str
    size: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Attachment:
    """A signature or attestation in the registry. ``kind`` is ``signature``, ``cyclonedx`` or ``slsaprovenance1``,
    ``subject`` the digest it speaks about, ``signer`` the key's fingerprint or the identity behind it.
    """

    kind: str
    subject: str
    signer: str


@dataclass(frozen=True)
class Published:
    """One image and target as it lies in the registry, with every tag that names it."""

    name: str
    target: str
    repository: str
    digest: str
    tags: tuple[str, ...]
    platforms: tuple[Platform, ...]
    signatures: tuple[Attachment, ...]
    attestations: tuple[Attachment, ...]
    #: The commit that its labels name.
    commit: str = ""


@dataclass(frozen=True)
class StepTime:
    """One step of a release. ``state`` is that of the journal, ``begun`` in seconds since 1970."""

    name: str
    title: str
    state: str
    begun: float
    seconds: float


@dataclass(frozen=True)
class Component:
    """One row of the SBOM's summary: ``kind`` is the type in its purl (deb, pypi, npm, ...), ``images`` are keys (``api-prod``)."""

    name: str
    version: str
    kind: str
    licences: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """Everything that dist/release.json tells. ``created`` is in seconds since 1970, ``public_key`` a PEM text (empty when
    signed without a key), ``notes`` are sentences that a reader must see (what was not tested, what was waived and why).
    """

    version: str
    commit: str
    created: int
    verified: bool
    public_key: str
    images: tuple[Published, ...]
    steps: tuple[StepTime, ...]
    components: tuple[Component, ...]
    notes: tuple[str, ...] = ()
