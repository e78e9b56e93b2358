"""``dist/release.json`` and ``dist/release.html``: what a release published, for programs and for people."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipyard import machine, oci, release_drawing
from shipyard.artifacts import Attachment, Layer, Platform, Published, Release
from shipyard.commands import cosign
from shipyard.layouts import Layout

JSON = "release.json"
HTML = "release.html"
#: Raised when a field of release.json changes its meaning.
SCHEMA = 1
#: Who vouches for the identities of a release that was signed without a key, in GitHub's CI.
ISSUER = "https://token.actions.githubusercontent.com"


def platforms(layout: Layout) -> tuple[Platform, ...]:
    """What a layout's image holds, platform by platform. Raises BuildFailed when the layout is damaged."""
    found = []
    for part in layout.parts():
        manifest = layout.document(part.digest)
        config = layout.document(oci.blobs(manifest)[0].digest)
        found.append(Platform(part.platform, part.digest, part.size, layers(manifest, config)))
    return tuple(found)


def layers(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of one platform from the lowest, each with the line of its history that made it."""
    blobs = oci.blobs(manifest)[1:]
    history = [str(each.get("created_by") or "") for each in config.get("history") or () if not each.get("empty_layer")]
    history += [""] * (len(blobs) - len(history))  # a history is optional
    return tuple(Layer(blob.digest, blob.size, line) for blob, line in zip(blobs, history, strict=False))


def earlier(folder: Path) -> dict[str, Any] | None:
    """The release.json that ``folder`` holds; None when there is none or it cannot be read."""
    try:
        found = json.loads((folder / JSON).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def document(release: Release, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of release.json. ``before`` is what ``earlier`` found; a release that is written again keeps what it
    was compared with.
    """
    return {
        "schema": SCHEMA,
        "version": release.version,
        "commit": release.commit,
        "created": _moment(release.created),
        "verified": release.verified,
        "notes": list(release.notes),
        "images": [_image(image) for image in release.images],
        "steps": [
            {**asdict(step), "begun": _moment(step.begun), "seconds": round(step.seconds, 3)} for step in release.steps
        ],
        "sbom": _sbom(release),
        "public_key": release.public_key,
        "verify": [{"title": title, "command": shlex.join(line)} for title, line in _commands(release)],
        "previous": _previous(release.version, before),
    }


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Both files, each whole or not at all; a file that says this already is left alone."""
    texts = {JSON: json.dumps(content, indent=2, ensure_ascii=False) + "\n", HTML: release_drawing.page(content)}
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            machine.replace(path, text)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _image(image: Published) -> dict[str, Any]:
    return {
        "key": f"{image.name}-{image.target}",
        **asdict(image),
        "reference": f"{image.repository}@{image.digest}",
    }


def _sbom(release: Release) -> dict[str, Any]:
    """Every component once, and how many of them each licence covers, the commonest first."""
    count = Counter(licence for each in release.components for licence in sorted(set(each.licences)))
    return {
        "components": [asdict(each) for each in release.components],
        "licences": [
            {"licence": name, "components": number}
            for name, number in sorted(count.items(), key=lambda item: (-item[1], item[0].casefold(), item[0]))
        ],
    }


def _previous(version: str, before: Mapping[str, Any] | None) -> Any:
    """The release before this one and the sizes of its images in bytes, by key and platform; None when there is none."""
    if not before:
        return None
    if before["version"] == version:
        return before.get("previous")
    sizes = {
        image["key"]: {each["platform"]: each["size"] for each in image["platforms"]} for image in before["images"]
    }
    return {"version": before["version"], "sizes": sizes}


def _commands(release: Release) -> list[tuple[str, list[str]]]:
    """What a stranger types: everything at once with a checkout, or cosign alone, image by image."""
    lines = [("Everything at once, from a checkout", ["./scripts/invoke", "verify", release.version])]
    for image in release.images:
        key, reference = f"{image.name}-{image.target}", f"{image.repository}@{image.digest}"
        trusted = _trusted(release.public_key, image.signatures)
        lines.append((f"{key}: signature", cosign.verify("cosign", trusted, [reference])))
        for each in image.attestations:
            where = next((part.platform for part in image.platforms if part.digest == each.subject), "all platforms")
            subject = f"{image.repository}@{each.subject}"
            lines.append(
                (f"{key}: {each.kind}, {where}", cosign.verify_attestation("cosign", trusted, each.kind, [subject]))
            )
    return lines


def _trusted(public_key: str, signatures: tuple[Attachment, ...]) -> Path | cosign.Identity:
    """The key's usual place in a checkout; of a release that was signed without one, the identity that signed it."""
    return Path("cosign.pub") if public_key else cosign.Identity(signatures[0].signer if signatures else "", ISSUER)
