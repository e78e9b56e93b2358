"""What a registry shows of an image, read as a stranger would: index, platforms, configs; and everything odd about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shipyard import oci, plain_text, registry_documents
from shipyard.artifacts import Layer, Platform
from shipyard.errors import RegistryFailed
from shipyard.registry import Registry
from shipyard.registry_documents import Config

#: Platform of an index's entries that are no image (buildx's own attestations).
_NO_IMAGE = "unknown/unknown"
#: Entries of an image's index that are read: each platform is one, with buildx's attestations two.
_MOST = 64


@dataclass(frozen=True)
class Finding:
    """One thing wrong with what is published: a short ``kind`` that scripts may ask for, its place, what, and what to try."""

    kind: str
    place: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        """``place: kind: problem; hint``, in one line that no terminal takes for a command."""
        place, problem, hint = (plain_text.shown(each) for each in (self.place, self.problem, self.hint))
        return f"{place}: {self.kind}: {problem}" + (f"; {hint}" if hint else "")


@dataclass(frozen=True)
class Seen:
    """An image as it was read. ``digest`` is empty when nothing is there; ``labels`` are by platform."""

    digest: str
    platforms: tuple[Platform, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def label(self, name: str) -> str:
        """What the first platform says; that all say the same is a check of its own."""
        return next((labels.get(name, "") for labels in self.labels.values()), "")


class Reader:
    """Reads one image. ``place`` is how findings call it; ``deep`` reads its layers too, of which else only the names."""

    def __init__(self, registry: Registry, repository: str, place: str, *, deep: bool = False) -> None:
        self.registry, self.repository, self.place, self.deep = registry, repository, place, deep
        self.findings: list[Finding] = []

    def read(self, reference: str) -> Seen:
        """Everything below a tag or digest. Raises AccessDenied, and RegistryFailed when the registry does not answer."""
        digest = reference if oci.is_digest(reference) else self.registry.head(self.repository, reference) or ""
        top = self._document(digest, "missing-image") if digest else None
        if top is None:
            if not self.findings:
                self._find("missing-image", "there is no such image", "was it promoted, and to this registry?")
            return Seen("", findings=tuple(self.findings))
        platforms, labels = list[Platform](), dict[str, Mapping[str, str]]()
        for each, manifest in self._manifests(digest, top):
            blobs = self._described(oci.blobs, manifest, each.digest)
            config = self._config(blobs[0]) if blobs else Config()
            platform = each.platform or config.platform
            if platform in labels:
                self._find("tampered", f"it has {platform or 'an image without a platform'} twice")
            labels[platform] = config.labels
            platforms.append(self._platform(platform, each.digest, blobs, config))
        return Seen(digest, tuple(platforms), labels, tuple(self.findings))

    def _manifests(self, digest: str, top: dict[str, Any]) -> Iterator[tuple[oci.Descriptor, dict[str, Any]]]:
        kind = self._kind(top, digest)
        if kind not in oci.INDEXES:
            if kind:
                yield oci.Descriptor(kind, digest, 0), top
            return
        listed = self._described(oci.manifests, top, digest)
        if len(listed) > _MOST:
            self._find(
                "tampered", f"{digest} lists {len(listed):,} manifests; an index of more than {_MOST} is not read"
            )
            return
        for each in listed:
            if each.platform != _NO_IMAGE and (manifest := self._document(each.digest, "missing-manifest")) is not None:
                yield each, manifest

    def _kind(self, top: dict[str, Any], digest: str) -> str:
        try:
            return oci.media_type(top)
        except ValueError as problem:
            self._find("tampered", f"{digest} is no index and no manifest: {problem}")
            return ""

    def _platform(self, platform: str, digest: str, blobs: tuple[oci.Descriptor, ...], config: Config) -> Platform:
        said = config.history
        layers = [
            Layer(layer.digest, layer.size, said[number] if number < len(said) else "")
            for number, layer in enumerate(blobs[1:])
        ]
        for each in dict.fromkeys(layers):
            if self.deep:
                if problem := self.registry.check_blob(self.repository, each.digest, each.size):
                    self._find("tampered", f"the layer {each.digest} of {platform} is not what it was: {problem}")
            elif not self.registry.has_blob(self.repository, each.digest):
                self._find("missing-blob", f"the layer {each.digest} of {platform} is not in the registry")
        return Platform(platform, digest, sum(each.size for each in blobs), tuple(layers))

    def _config(self, blob: oci.Descriptor) -> Config:
        try:
            raw = self.registry.blob(self.repository, blob.digest, oci.LONGEST)
            if raw is None:
                self._find("missing-blob", f"the config {blob.digest} is not in the registry")
            elif len(raw) != blob.size:
                self._find("tampered", f"the config {blob.digest} has {len(raw)} bytes, its manifest says {blob.size}")
            else:
                return registry_documents.config(raw)
        except (ValueError, RegistryFailed) as problem:
            self._tampered(f"the config {blob.digest}", problem)
        return Config()

    def _document(self, digest: str, absent: str) -> dict[str, Any] | None:
        try:
            found = self.registry.manifest(self.repository, digest)
            if found is not None:
                return oci.parse(found[0])
            self._find(absent, f"{digest} is not in the registry")
        except (ValueError, RegistryFailed) as problem:
            self._tampered(digest, problem)
        return None

    def _described(self, reader: Any, document: dict[str, Any], digest: str) -> tuple[oci.Descriptor, ...]:
        try:
            found: tuple[oci.Descriptor, ...] = reader(document)
        except ValueError as problem:
            self._find("tampered", f"{digest} is no index and no manifest: {problem}")
            return ()
        return found

    def _tampered(self, what: str, problem: Exception) -> None:
        self.registry.ping()  # one that does not answer at all raises here: that is no forgery
        self._find("tampered", f"{what} cannot be read: {problem}", "somebody changed what the registry stores")

    def _find(self, kind: str, problem: str, hint: str = "") -> None:
        self.findings.append(Finding(kind, self.place, problem, hint))
