"""Whether an image that an engine has is what a job would build, read off its labels. Pure."""

from __future__ import annotations

import json
from typing import Any

from shipyard import inputs
from shipyard.models import LABEL_ARGUMENTS, LABEL_FILES, LABEL_INPUTS, LABEL_PLATFORMS, Job


def reason(found: dict[str, Any] | None, job: Job, *, no_cache: bool = False) -> str:
    """Why ``found`` (``docker image inspect``, or None) has to be built; empty when it was made from the job's inputs."""
    if no_cache:
        return "no cache wanted"
    labels = labels_of(found)
    if labels is None:
        return "not built yet"
    if labels.get(LABEL_INPUTS) != job.inputs:
        changed = changes(labels, job)
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return changed[0] + more if changed else "version, base or settings changed"
    missing = set(job.platforms) - set(labels.get(LABEL_PLATFORMS, "").split(","))
    return "without " + ", ".join(sorted(missing)) if missing else ""


def labels_of(found: dict[str, Any] | None) -> dict[str, str] | None:
    """The labels of an image; None when there is none."""
    return None if found is None else (found.get("Config") or {}).get("Labels") or {}


def changes(labels: dict[str, str], job: Job) -> list[str]:
    """Build arguments and files that differ, as far as the labels know what they were."""
    try:
        files = inputs.changes(json.loads(labels.get(LABEL_FILES, "{}")), job.files)
        before = json.loads(labels[LABEL_ARGUMENTS]) if LABEL_ARGUMENTS in labels else dict(job.remembered)
    except ValueError:
        return []
    own, now = "the Dockerfile's own", job.remembered
    names = sorted({*before, *now})
    return [
        *(
            f"{each} was {before.get(each, own)}, is {now.get(each, own)}"
            for each in names
            if before.get(each) != now.get(each)
        ),
        *files,
    ]
