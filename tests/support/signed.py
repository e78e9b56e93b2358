"""Small releases, signed by real cosign: made once, then copied into a registry of each test's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import shipyard
from shipyard import dsse, oci
from shipyard.artifacts import Artifact
from shipyard.models import LABEL_PLATFORMS, LABEL_TARGET, Project
from shipyard.registry import Registry
from tests.support import registries

REVISION = "c0ffee" * 6 + "c0ff"


_IMAGES = """
source = "https://example.org/gateway"
licenses = "Apache-2.0"
[base]
image = "debian:trixie-slim"
suite = "trixie"
[image.tiny]
title = "A tiny image"
repository = "tiny"
context = "."
dockerfile = "Dockerfile"
targets = ["prod", "cuda", "dev"]
platforms = ["linux/amd64", "linux/arm64"]
"""


def project(root: Path, version: str = "1.2.3") -> Project:
    """A checkout that declares one image, whose cuda target is released too."""
    (root / "docker").mkdir(parents=True, exist_ok=True)
    for name, text in {"docker/images.toml": _IMAGES, "Dockerfile": "", "VERSION": version + "\n"}.items():
        (root / name).write_text(text)
    return shipyard.config.load(root)


def labels(version: str = "1.2.3", target: str = "prod", **changes: str) -> dict[str, str]:
    """What a release build writes into an image; ``changes`` are OCI labels by the end of their names."""
    said = {
        "title": "A tiny image",
        "source": "https://example.org/gateway",
        "version": version,
        "revision": REVISION,
        **changes,
    }
    found = {f"org.opencontainers.image.{name}": value for name, value in said.items()}
    return {**found, LABEL_TARGET: target, LABEL_PLATFORMS: ",".join(registries.PLATFORMS)}


def artifact(folder: Path, address: str, version: str = "1.2.3", target: str = "prod", **options: Any) -> Artifact:
    """An image of the release, not pushed yet."""
    said = options.pop("labels", None) or labels(version, target)
    place = folder / f"{target}-{version}"
    return registries.artifact(
        place, address, "tiny", target, version, labels=said, text=place.name.encode(), **options
    )


def sbom(digest: str, version: str = "1.2.3") -> dict[str, Any]:
    """As much of an SBOM as verification asks for."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": shipyard.sbom.serial(digest),
        "metadata": {"component": {"type": "container", "name": "tiny", "version": version}},
        "components": [{"type": "library", "name": "libc6", "version": "2.41-12"}],
    }


def provenance(version: str = "1.2.3", revision: str = REVISION) -> dict[str, Any]:
    """As much of a provenance as verification asks for."""
    return {
        "buildDefinition": {
            "buildType": "https://example.org/build/v1",
            "externalParameters": {"version": version},
            "resolvedDependencies": [{"uri": "git+https://example.org/gateway", "digest": {"gitCommit": revision}}],
        },
        "runDetails": {"builder": {"id": "https://example.org/builder"}},
    }


def attest(checkout: Project, registry: Registry, made: Artifact, kind: str, content: Any, digest: str = "") -> bool:
    """Attach a document of ours."""
    path = made.layout.parent / f"{kind}-{digest[-8:]}.json"
    path.write_text(json.dumps(content))
    return shipyard.signing.attest(checkout, registry, made, kind, path, digest)


def publish(checkout: Project, registry: Registry, made: Artifact, *tags: str) -> Artifact:
    """Push, sign and attest; then let its own tag and more of them name it, which a statement says before."""
    shipyard.publishing.push(registry, made)
    shipyard.signing.sign(checkout, registry, made)
    version = checkout.version
    for part in made.parts:
        attest(checkout, registry, made, "cyclonedx", sbom(part.digest, version), part.digest)
    attest(checkout, registry, made, "slsaprovenance1", provenance(version))
    if tags:
        state(checkout, registry, made, *tags)
    shipyard.publishing.move(registry, made, [made.tag, *tags])
    return made


def state(checkout: Project, registry: Registry, made: Artifact, *tags: str) -> None:
    """Let the statement of channels say that these tags name it."""
    stated = shipyard.promotion.wanted([(made, checkout.version)], {made.key: tags})
    shipyard.promotion.state(checkout, registry, stated)


class Shelf:
    """Releases 1.2.2 and 1.2.3 of prod and 1.2.3 of cuda, with the key that signed them; made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = project(folder / "checkout")
        shipyard.signing_keys.init(self.checkout)
        with registries.running(folder / "registry") as served:
            registry = Registry(served.address)
            earlier = replace(self.checkout, version="1.2.2")
            self.old = publish(earlier, registry, artifact(folder, served.address, "1.2.2"))
            self.new = publish(self.checkout, registry, artifact(folder, served.address), "1.2", "1", "latest")
            cuda = artifact(folder, served.address, target="cuda")
            self.cuda = publish(self.checkout, registry, cuda, "1.2-cuda", "1-cuda", "latest-cuda")

    @contextmanager
    def lent(self, folder: Path) -> Iterator[Scene]:
        """A registry of its own with all of that in it, and a checkout with the public key alone."""
        shutil.copytree(self.folder / "registry/storage", folder / "registry/storage")
        checkout = project(folder / "checkout")
        shutil.copy(self.checkout.root / "cosign.pub", checkout.root)
        with registries.running(folder / "registry") as served:
            yield Scene(served, checkout, *(self._at(each, served) for each in (self.old, self.new, self.cuda)))

    def _at(self, made: Artifact, served: registries.Served) -> Artifact:
        return replace(made, repository=f"{served.address}/tiny")


class Scene:
    """What a test has: the registry, a stranger's checkout, and the releases."""

    def __init__(
        self, served: registries.Served, checkout: Project, old: Artifact, new: Artifact, cuda: Artifact
    ) -> None:
        self.served, self.checkout = served, checkout
        self.registry = Registry(served.address)
        self.old, self.new, self.cuda = old, new, cuda

    def verify(self, what: str = "") -> shipyard.verification.Report:
        return shipyard.verification.verify(self.checkout, what or self.checkout.version, self.served.address)

    def found(self, what: str = "") -> list[tuple[str, str]]:
        """What verification finds, as kinds and tags (or digests)."""
        return sorted(
            {(each.kind, each.place.rpartition("tiny")[2].lstrip(":@")) for each in self.verify(what).findings}
        )

    def attached(self, digest: str) -> list[dict[str, Any]]:
        """The descriptors of what hangs on a digest."""
        found = self.registry.manifest("tiny", shipyard.attachments.tag(digest))
        return oci.parse(found[0])["manifests"] if found else []

    def hang(self, digest: str, descriptors: list[dict[str, Any]]) -> None:
        """Replace what hangs on a digest, as whoever may write to the registry can."""
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": descriptors}
        self.registry.push_manifest("tiny", shipyard.attachments.tag(digest), json.dumps(index).encode(), oci.INDEX)

    def put(self, subject: str, bundle: bytes) -> dict[str, Any]:
        """Bring anything there that says it is a bundle about a digest; its descriptor, to be hung there."""
        found = {}
        for name, data in (("config", b"{}"), ("layer", bundle)):
            path = self.checkout.root / oci.digest(data).removeprefix("sha256:")
            path.write_bytes(data)
            self.registry.push_blob("tiny", oci.digest(data), path)
            found[name] = {"mediaType": dsse.BUNDLE, "digest": oci.digest(data), "size": len(data)}
        found["config"]["mediaType"] = "application/vnd.oci.empty.v1+json"
        document = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "artifactType": dsse.BUNDLE}
        about = {"mediaType": oci.INDEX, "digest": subject, "size": 1}
        raw = json.dumps({**document, "config": found["config"], "layers": [found["layer"]], "subject": about}).encode()
        self.registry.push_manifest("tiny", oci.digest(raw), raw, oci.MANIFEST)
        kind = {"mediaType": oci.MANIFEST, "artifactType": dsse.BUNDLE}
        return {**kind, "digest": oci.digest(raw), "size": len(raw)}

    def of_kind(self, digest: str, kind: str) -> list[dict[str, Any]]:
        """The descriptors of statements of one kind."""
        wanted = {**shipyard.commands.cosign.PREDICATES, "signature": shipyard.commands.cosign.SIGNATURE}[kind]
        kinds = {
            each.digest: each.statement.kind
            for each in shipyard.attachments.find(self.registry, "tiny", digest)
            if each.statement
        }
        return [each for each in self.attached(digest) if kinds.get(each["digest"]) == wanted]
