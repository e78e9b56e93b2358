"""The provenance of a release, as its journal and its commit tell it: one predicate for each image."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from shipyard import inputs, machine, provenance, source
from shipyard.artifacts import Artifact
from shipyard.models import Image
from shipyard.provenance import Build, Resource
from shipyard.world import World


def write(world: World) -> None:
    """Write every image's predicate into the folder of the release."""
    build = _build(world)
    for artifact in world.artifacts:
        resources = [*_base(world), *_locked(world, world.project.images[artifact.name])]
        document = provenance.predicate(build, artifact, resources)
        machine.replace(path(world, artifact), json.dumps(document, indent=2) + "\n")


def path(world: World, artifact: Artifact) -> Path:
    """Where the predicate of an image lies."""
    return world.folder / "provenance" / f"{artifact.key}.json"


def _build(world: World) -> Build:
    now = time.time()
    begun, seconds = world.journal.span("build") or (now, 0.0)
    return Build(
        version=world.version,
        source=world.project.source,
        commit=world.commit,
        targets={artifact.key: tuple(part.platform for part in artifact.parts) for artifact in world.artifacts},
        builder_id=_workflow(),
        versions=_facts(world).get("versions") or {},
        invocation=f"urn:uuid:{uuid5(NAMESPACE_URL, f'{world.commit.revision} {begun}')}",
        started=begun,
        finished=begun + seconds,
        internal=_internal(world),
    )


def _workflow() -> str:
    """The workflow that releases in GitHub's CI, as the certificate of a keyless signature names it; empty elsewhere."""
    server, workflow = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_WORKFLOW_REF")
    return f"{server}/{workflow}" if server and workflow else ""


def _internal(world: World) -> dict[str, Any]:
    """What was tested and rebuilt, and why something was not."""
    repro, test = world.remembered("repro") or {}, world.remembered("test") or {}
    skipped = repro.get("skipped")
    found: dict[str, Any] = {"rebuilt": not skipped, "tested": list(test.get("tested") or ())}
    return {**found, "skip-repro": skipped} if skipped else found


def _facts(world: World) -> dict[str, Any]:
    return dict(world.journal.facts("build", commit=world.commit.revision) or {})


def _base(world: World) -> Iterator[Resource]:
    if known := _facts(world).get("base"):
        yield provenance.base(known["reference"], known["digest"])


def _locked(world: World, image: Image) -> Iterator[Resource]:
    """The lock files that an image's Dockerfile takes, as the commit has them, and what they lock."""
    folder = str(PurePosixPath(image.dockerfile).parent)
    dockerfile = source.text(world.root, world.commit.revision, image.dockerfile) or ""
    python = sorted(set(re.findall(r"requirements/[\w.-]+\.txt", dockerfile)))
    debian = [f"{folder}/debian.lock", *inputs.locks(dockerfile)]
    readers = dict.fromkeys(debian, provenance.debs) | {f"{folder}/package-lock.json": provenance.npm}
    readers |= dict.fromkeys(python, provenance.wheels)
    for name, read in readers.items():
        if (text := source.text(world.root, world.commit.revision, name)) is not None:
            yield provenance.lock(name, text.encode())
            yield from read(text)
