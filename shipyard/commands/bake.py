"""The one BuildKit bake request of a build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipyard.models import LABEL_FILES, LABEL_INPUTS, LABEL_PLATFORMS, LABEL_TARGET, Base, Job, Project


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
    }


def document(
    project: Project,
    jobs: Iterable[Job],
    base: Base,
    *,
    revision: str,
    epoch: int,
    no_cache: bool = False,
    secrets: Mapping[str, Path] | None = None,
) -> str:
    """The bake file as JSON. ``epoch`` is SOURCE_DATE_EPOCH in seconds; ``secrets`` maps ids to host files."""
    targets = {job.key: _target(project, job, base, revision, epoch, no_cache, secrets or {}) for job in jobs}
    return json.dumps({"group": {"default": {"targets": list(targets)}}, "target": targets}, indent=2)


def _target(
    project: Project, job: Job, base: Base, revision: str, epoch: int, no_cache: bool, secrets: Mapping[str, Path]
) -> dict[str, Any]:
    return {
        "context": job.image.context,
        "dockerfile": job.image.dockerfile,
        "target": job.target,
        "platforms": list(job.platforms),
        "tags": [job.candidate],
        "labels": labels(project, job, revision, epoch),
        "args": {"SOURCE_DATE_EPOCH": str(epoch)},
        "contexts": {project.base.image: f"docker-image://{base.reference}"},
        "secret": [f"id={name},src={path}" for name, path in secrets.items()],
        "output": ["type=image"],
        "no-cache": no_cache,
    }


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Variables for buildx: provenance is attached at release, outside the image, so that digests stay reproducible."""
    return {**base, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
