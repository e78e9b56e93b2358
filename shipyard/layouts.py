"""An OCI image layout: a folder with one image, its manifests and blobs as the builder wrote them. Only read here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shipyard import oci
from shipyard.artifacts import Part
from shipyard.errors import BuildFailed

#: Platform of manifests in an index that are no image: what buildx calls its attestations.
_NO_IMAGE = "unknown/unknown"


@dataclass(frozen=True)
class Layout:
    """An OCI image layout folder (``oci-layout``, ``index.json``, ``blobs/sha256``) that holds one index or one manifest.

    Every reader raises BuildFailed, naming file and reason, where the folder is incomplete or damaged.
    """

    path: Path

    @cached_property
    def top(self) -> oci.Descriptor:
        """The one thing that ``index.json`` names: an index of platforms, or the manifest of a single platform."""
        outer = self.path / "index.json"
        try:
            found = oci.manifests(oci.parse(outer.read_bytes()))
        except (OSError, ValueError) as problem:
            raise BuildFailed(self._damaged(f"index.json: {problem}")) from problem
        digests = {each.digest for each in found}
        if len(digests) != 1:
            raise BuildFailed(self._damaged(f"index.json names {len(digests)} images, not one"))
        return found[0]

    @property
    def digest(self) -> str:
        """The digest that is pushed, signed and promoted."""
        return self.top.digest

    @property
    def media_type(self) -> str:
        """What ``digest`` is: one of ``oci.INDEXES`` or ``oci.MANIFESTS``."""
        return oci.media_type(self.document(self.digest))

    def blob(self, digest: str) -> Path:
        """Where the bytes of a digest lie, whether or not they are there."""
        if not oci.is_digest(digest):
            raise BuildFailed(self._damaged(f"{digest!r} is no SHA-256 digest"))
        return self.path / "blobs" / digest.replace(":", "/")

    def raw(self, digest: str) -> bytes:
        """The bytes of an index, a manifest or a config, which are what their digest says."""
        path = self.blob(digest)
        try:
            if path.stat().st_size > oci.LONGEST:
                raise BuildFailed(self._damaged(f"{digest} is a layer, or a document of more than 4 MiB"))
            data = path.read_bytes()
        except OSError as problem:
            raise BuildFailed(self._damaged(f"{digest}: {problem.strerror}")) from problem
        if oci.digest(data) != digest:
            raise BuildFailed(self._damaged(f"{digest} holds other bytes"))
        return data

    def document(self, digest: str) -> dict[str, Any]:
        """An index, a manifest or a config, parsed."""
        try:
            return oci.parse(self.raw(digest))
        except ValueError as problem:
            raise BuildFailed(self._damaged(f"{digest}: {problem}")) from problem

    @cached_property
    def manifests(self) -> tuple[oci.Descriptor, ...]:
        """The manifests of all platforms, in the order of the index; attestations count. The index itself does not."""
        top = self.document(self.digest)
        if oci.media_type(top) in oci.INDEXES:
            return self._read(self.digest, oci.manifests, top)
        config = self.document(self._read(self.digest, oci.blobs, top)[0].digest)
        return (oci.Descriptor(self.top.media_type, self.digest, self.top.size, oci.platform(config)),)

    def parts(self) -> tuple[Part, ...]:
        """The images, one for each platform, in the order of the index."""
        found = []
        for each in self.manifests:
            blobs = self.blobs(each.digest)
            platform = each.platform or oci.platform(self.document(blobs[0].digest))
            if platform != _NO_IMAGE:
                layers = tuple(layer.digest for layer in blobs[1:])
                found.append(Part(platform, each.digest, sum(blob.size for blob in blobs), layers))
        return tuple(found)

    def blobs(self, part: Part | str) -> tuple[oci.Descriptor, ...]:
        """Config and layers, the lowest first, of a platform, which may be given by its manifest's digest."""
        digest = part if isinstance(part, str) else part.digest
        return self._read(digest, oci.blobs, self.document(digest))

    def present(self) -> bool:
        """Whether everything is there with the right sizes; reads no layer."""
        try:
            return not any(_wrong_size(self.blob(each.digest), each.size) for each in self._everything())
        except BuildFailed:
            return False

    def check(self) -> list[str]:
        """What is missing, of the wrong size or of other bytes than its name says; reads everything."""
        found: list[str] = []
        try:
            for each in self._everything():
                path = self.blob(each.digest)
                if problem := _wrong_size(path, each.size) or _wrong_bytes(path, each.digest):
                    found.append(f"{path}: {problem}")
        except BuildFailed as damaged:
            # A document that is missing or changed was named above, before it was read.
            found = found or [str(damaged)]
        return found

    def _everything(self) -> Iterator[oci.Descriptor]:
        """Each document and blob once, the documents before what they name."""
        seen = {self.digest}
        yield self.top
        for manifest in self.manifests:
            for each in (manifest, *self.blobs(manifest.digest)):
                if each.digest not in seen:
                    seen.add(each.digest)
                    yield each

    def _read(self, digest: str, reader: Any, document: dict[str, Any]) -> tuple[oci.Descriptor, ...]:
        try:
            found: tuple[oci.Descriptor, ...] = reader(document)
        except ValueError as problem:
            raise BuildFailed(self._damaged(f"{digest}: {problem}")) from problem
        return found

    def _damaged(self, problem: str) -> str:
        return f"{self.path} is no complete OCI image layout: {problem}; remove the folder and build again"


def _wrong_size(path: Path, size: int) -> str:
    try:
        found = path.stat().st_size
    except OSError as problem:
        return str(problem.strerror)
    return "" if found == size else f"has {found} bytes, not {size}"


def _wrong_bytes(path: Path, digest: str) -> str:
    with path.open("rb") as handle:
        found = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    return "" if found == digest else f"holds {found}"
