"""What a registry shows of an image, read as a stranger would: index, platforms, configs; and everything odd about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shipyard import oci
from shipyard.artifacts import Layer, Platform
from shipyard.errors import RegistryFailed
from shipyard.registry import Registry

#: Platform of an index's entries that are no image (buildx's own attestations).
_NO_IMAGE = "unknown/unknown"


@dataclass(frozen=True)
class Finding:
    """One thing wrong with what is published: a short ``kind`` that scripts may ask for, its place, what, and what to try."""

    kind: str
    place: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        """``place: kind: problem; hint``."""
        return f"{self.place}: {self.kind}: {self.problem}" + (f"; {self.hint}" if self.hint else "")


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
    """Reads one image. ``place`` is how findings call it."""

    def __init__(self, registry: Registry, repository: str, place: str) -> None:
        self.registry, self.repository, self.place = registry, repository, place
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
            config = self._config(manifest)
            platform = each.platform or oci.platform(config)
            labels[platform] = (config.get("config") or {}).get("Labels") or {}
            platforms.append(self._platform(platform, each.digest, manifest, config))
        return Seen(digest, tuple(platforms), labels, tuple(self.findings))

    def _manifests(self, digest: str, top: dict[str, Any]) -> Iterator[tuple[oci.Descriptor, dict[str, Any]]]:
        if oci.media_type(top) not in oci.INDEXES:
            yield oci.Descriptor(oci.media_type(top), digest, 0), top
            return
        for each in self._described(oci.manifests, top, digest):
            if each.platform != _NO_IMAGE and (manifest := self._document(each.digest, "missing-manifest")) is not None:
                yield each, manifest

    def _platform(self, platform: str, digest: str, manifest: dict[str, Any], config: dict[str, Any]) -> Platform:
        said = [str(each.get("created_by", "")) for each in config.get("history") or () if not each.get("empty_layer")]
        found = self._described(oci.blobs, manifest, digest)
        layers = [
            Layer(layer.digest, layer.size, said[number] if number < len(said) else "")
            for number, layer in enumerate(found[1:])
        ]
        for each in layers:
            if not self.registry.has_blob(self.repository, each.digest):
                self._find("missing-blob", f"the layer {each.digest} of {platform} is not in the registry")
        return Platform(platform, digest, sum(each.size for each in found), tuple(layers))

    def _config(self, manifest: dict[str, Any]) -> dict[str, Any]:
        found = self._described(oci.blobs, manifest, "a manifest")
        if not found:
            return {}
        try:
            raw = self.registry.blob(self.repository, found[0].digest)
            if raw is not None:
                return oci.parse(raw)
            self._find("missing-blob", f"the config {found[0].digest} is not in the registry")
        except (ValueError, RegistryFailed) as problem:
            self._tampered(f"the config {found[0].digest}", problem)
        return {}

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
