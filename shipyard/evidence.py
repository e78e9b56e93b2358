"""What attestations must say: an SBOM about one platform's manifest, a provenance about the index. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def sbom_problems(predicate: Mapping[str, Any], serial: str, names: Collection[str]) -> Iterator[str]:
    """What keeps an SBOM (CycloneDX 1.6) from being that of an image; ``names`` are its version as it may say it."""
    if (predicate.get("bomFormat"), predicate.get("specVersion")) != ("CycloneDX", "1.6"):
        yield "is no CycloneDX 1.6 document"
        return
    if predicate.get("serialNumber") != serial:
        yield f"has the serial number {predicate.get('serialNumber')}, not {serial}: it is that of another image"
    if not _rows(predicate, "components"):
        yield "lists no component"
    described = _table(_table(predicate, "metadata"), "component").get("version")
    if described not in names:
        yield f"describes {described}, not {' or '.join(names)}"


def provenance_problems(predicate: Mapping[str, Any], version: str, revision: str) -> Iterator[str]:
    """What keeps a provenance (SLSA v1) from being that of a version and a commit."""
    definition = _table(predicate, "buildDefinition")
    said = _table(definition, "externalParameters").get("version")
    if said != version:
        yield f"names version {said}, not {version}"
    commits = [_table(each, "digest").get("gitCommit") for each in _rows(definition, "resolvedDependencies")]
    if revision not in commits:
        named = ", ".join(str(each) for each in commits if each) or "none"
        yield f"names the commit {named}, the image's label says {revision or 'none'}"
    if not definition.get("buildType"):
        yield "names no build type"
    if not _table(_table(predicate, "runDetails"), "builder").get("id"):
        yield "names no builder"


def _table(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _rows(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = value.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
