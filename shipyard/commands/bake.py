"""The one BuildKit bake request of a build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipyard.models import (
    LABEL_ARGUMENTS,
    LABEL_FILES,
    LABEL_INPUTS,
    LABEL_PLATFORMS,
    LABEL_TARGET,
    Base,
    Image,
    Job,
    Project,
)

#: The stage of a Dockerfile that holds what docker/builder/fetch-debs took: what a lock is written from.
LOCK_STAGE = "debian-lock"


def argv(docker: str) -> list[str]:
    """The command; the document is read from stdin, progress comes as JSON lines on stderr."""
    return [docker, "buildx", "bake", "--file", "-", "--progress", "rawjson"]


def labels(project: Project, job: Job, revision: str, epoch: int) -> dict[str, str]:
    """OCI annotations (image-spec, "Pre-Defined Annotation Keys") and what the toolkit itself needs to know again."""
    return {
        "org.opencontainers.image.title": job.image.title,
        "org.opencontainers.image.source": project.source,
        "org.opencontainers.image.licenses": project.licenses,
        "org.opencontainers.image.version": project.version,
        "org.opencontainers.image.revision": revision,
        "org.opencontainers.image.created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        LABEL_INPUTS: job.inputs,
        LABEL_TARGET: job.target,
        LABEL_PLATFORMS: ",".join(job.platforms),
        LABEL_FILES: json.dumps(job.files, separators=(",", ":")),
        **({LABEL_ARGUMENTS: json.dumps(job.remembered)} if job.image.arguments.get(job.target) else {}),
    }


def document(
    project: Project,
    jobs: Iterable[Job],
    base: Base,
    *,
    revision: str,
    epoch: int,
    no_cache: bool = False,
    again: Mapping[str, Sequence[str]] | None = None,
    secrets: Mapping[str, Path] | None = None,
    debian_lock: str = "prefer",
    layouts: Path | None = None,
) -> str:
    """The bake file as JSON. ``epoch`` is SOURCE_DATE_EPOCH in seconds; ``secrets`` maps ids to host files; ``again`` has
    the stages that are built without cache, by image.

    ``debian_lock`` is what happens where locked packages can no longer be had (docker/builder/fetch-debs): strict or
    prefer. With ``layouts`` each job becomes the OCI layout ``layouts/<key>`` instead of an image of the engine.
    """
    targets = {}
    for job in jobs:
        targets[job.key] = {
            **_source(project, job.image, base, epoch, secrets or {}, debian_lock, job.arguments),
            "target": job.target,
            "platforms": list(job.platforms),
            "tags": [] if layouts else [job.candidate],
            "labels": labels(project, job, revision, epoch),
            "output": [_folder("oci", layouts / job.key) + ",tar=false" if layouts else "type=image"],
            "no-cache": no_cache,
            **({"no-cache-filter": list(again[job.image.name])} if again else {}),
        }
    return _text(targets)


def locks_document(
    project: Project,
    images: Iterable[Image],
    base: Base,
    folder: Path,
    *,
    epoch: int,
    secrets: Mapping[str, Path],
    debian_lock: str,
) -> str:
    """The bake file that writes what apt took for each image, on all its platforms, below ``folder/<image>``."""
    targets = {
        image.name: {
            **_source(project, image, base, epoch, secrets, debian_lock, {}),
            "target": LOCK_STAGE,
            "platforms": list(image.platforms),
            "output": [_folder("local", folder / image.name) + ",platform-split=true"],
        }
        for image in images
    }
    return _text(targets)


def _source(
    project: Project,
    image: Image,
    base: Base,
    epoch: int,
    secrets: Mapping[str, Path],
    debian_lock: str,
    arguments: Mapping[str, str],
) -> dict[str, Any]:
    """What is the same for every target of an image."""
    return {
        "context": image.context,
        "dockerfile": image.dockerfile,
        "args": {"SOURCE_DATE_EPOCH": str(epoch), "DEBIAN_LOCK": debian_lock, **arguments},
        "contexts": {project.base.image: f"docker-image://{base.reference}"},
        "secret": [f"id={name},src={path}" for name, path in secrets.items()],
    }


def _folder(kind: str, path: Path) -> str:
    """An exporter's type and place; buildx reads the fields as one line of CSV."""
    place = f"dest={path}"
    return f"type={kind}," + ('"' + place.replace('"', '""') + '"' if set('",') & set(place) else place)


def _text(targets: Mapping[str, Any]) -> str:
    return json.dumps({"group": {"default": {"targets": list(targets)}}, "target": targets}, indent=2)


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Variables for buildx: provenance is attached at release, outside the image, so that digests stay reproducible."""
    return {**base, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
