"""The statement of channels in its registry: read with the public key, written by a promotion, and never older than before.

It lies in each repository under a tag of its own (``channels.TAG``), as a Sigstore bundle that cosign made. The highest
counter that this checkout saw is kept in .shipyard/channels.json, so that a registry cannot lead the statement itself back.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shipyard import channels, console, dsse, machine, oci, plain_text, signing, strict_json
from shipyard.channels import TAG, TYPE, Channels, Named
from shipyard.engine import lock
from shipyard.errors import EngineMissing, RegistryFailed
from shipyard.models import Project
from shipyard.registry import Registry
from shipyard.signing import Trust

#: Where the highest counters are kept, below .shipyard.
SEEN = "channels.json"
#: Bytes of a statement's bundle: 1,000 tags have 150 KB.
_BUNDLE = 1024 * 1024
#: The config of an artifact that has none (OCI image specification 1.1, "Guidance for an Empty Descriptor").
_EMPTY, _EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Found:
    """The statement of a repository, or why there is none that counts; ``seen`` is the highest counter known before."""

    channels: Channels | None
    problem: str
    seen: int

    @property
    def led_back(self) -> bool:
        """Whether a newer one was seen before."""
        return self.channels is not None and self.channels.counter < self.seen


def read(project: Project, registry: Registry, repository: str, ours: Trust) -> Found:
    """What the registry shows, and remember its counter. Raises AccessDenied, and RegistryFailed when it does not answer."""
    known = seen(project, registry, repository)
    try:
        found = registry.manifest(repository, TAG)
        if found is None:
            return Found(None, "there is no statement of channels", known)
        stated = _stated(registry, repository, found[0], ours)
    except (ValueError, RegistryFailed) as problem:
        registry.ping()  # one that does not answer at all raises here
        said = plain_text.shown(str(problem), 300)
        return Found(None, f"the statement of channels does not count: {said}", known)
    if stated.counter > known:
        _remember(project, registry, repository, stated.counter)
    return Found(stated, "", known)


def _stated(registry: Registry, repository: str, manifest: bytes, ours: Trust) -> Channels:
    layers = oci.blobs(oci.parse(manifest))[1:]
    if [each.media_type for each in layers] != [dsse.BUNDLE]:
        msg = "it is no bundle"
        raise strict_json.Malformed(msg)
    bundle = registry.blob(repository, layers[0].digest, _BUNDLE)
    if bundle is None:
        msg = "its content is gone"
        raise strict_json.Malformed(msg)
    statement = dsse.parse(bundle)
    if statement.kind != TYPE:
        msg = f"it is a statement of another kind, {statement.kind}"
        raise strict_json.Malformed(msg)
    if not ours.accepts_alone(bundle, statement):
        msg = f"it is not signed by {ours.name}"
        raise strict_json.Malformed(msg)
    found = channels.read(statement.predicate)
    if found.repository != _name(repository):
        msg = f"it is that of {found.repository}"
        raise strict_json.Malformed(msg)
    return found


def write(project: Project, registry: Registry, repository: str, wanted: Mapping[str, Named]) -> Channels | None:
    """Let a new statement say what is wanted; None where the present one says so and does not end soon.

    Raises SigningFailed, AccessDenied, and RegistryFailed, also when another promotion writes at the same moment.
    """
    found, now = read(project, registry, repository, signing.trust(project)), time.time()
    if settled(found, wanted, now):
        return None
    made = channels.after(found.channels, wanted, _name(repository), found.seen, now, channels.days())
    with tempfile.TemporaryDirectory(prefix="channels-") as folder:
        predicate, bundle = (Path(folder) / name for name in ("predicate.json", "bundle.json"))
        predicate.write_text(channels.document(made))
        signing.state(project, TYPE, predicate, bundle)
        layer = _kept(registry, repository, dsse.BUNDLE, bundle.read_bytes(), Path(folder))
        config = _kept(registry, repository, _EMPTY_TYPE, _EMPTY, Path(folder))
    manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "artifactType": dsse.BUNDLE, "config": config}
    raw = json.dumps({**manifest, "layers": [layer]}).encode()
    registry.push_manifest(repository, TAG, raw, oci.MANIFEST)
    if registry.head(repository, TAG) != oci.digest(raw):
        msg = f"{registry.host}/{repository}:{TAG} names something else right after it was written; run the same again"
        raise RegistryFailed(msg)
    _remember(project, registry, repository, made.counter)
    return made


def _kept(registry: Registry, repository: str, kind: str, data: bytes, folder: Path) -> dict[str, object]:
    """Bring a blob there; its descriptor. What is sent is a file that is called by its digest."""
    digest = oci.digest(data)
    path = folder / digest.removeprefix("sha256:")
    path.write_bytes(data)
    registry.push_blob(repository, digest, path)
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def settled(found: Found, wanted: Mapping[str, Named], now: float) -> bool:
    """Whether nothing has to be written."""
    there = found.channels
    return there is not None and not found.led_back and there.covers(wanted) and not there.ends_soon(now)


def _name(repository: str) -> str:
    """Its last part: a mirror may keep it below another prefix."""
    return repository.rpartition("/")[2]


def seen(project: Project, registry: Registry, repository: str) -> int:
    """The highest counter that this checkout saw of a repository; 0 for none."""
    value = _seen(project).get(f"{registry.host}/{repository}")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _seen(project: Project) -> dict[str, object]:
    try:
        return strict_json.table((project.state / SEEN).read_bytes())
    except (OSError, ValueError):
        return {}


def _remember(project: Project, registry: Registry, repository: str, counter: int) -> None:
    try:
        with lock("remembering a statement of channels", project.state / f"{SEEN}.lock"):
            highest = max(counter, seen(project, registry, repository))
            content = {**_seen(project), f"{registry.host}/{repository}": highest}
            machine.replace(project.state / SEEN, json.dumps(content, indent=2, sort_keys=True) + "\n")
    except (OSError, EngineMissing) as problem:
        console.warn(
            f"that statement {counter} was seen cannot be remembered ({problem}); an older one would be taken next time"
        )
