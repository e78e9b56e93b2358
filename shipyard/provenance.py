"""SLSA v1 provenance (https://slsa.dev/spec/v1.0/provenance): what an image was built from, by whom, and how. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shipyard.artifacts import Artifact, Commit

#: The predicate's type in an in-toto statement.
TYPE = "https://slsa.dev/provenance/v1"
#: What the parameters below mean, and who understands them: paths in the source repository.
_BUILD_TYPE, _BUILDER = "docs/release.md#build-type-v1", "docs/release.md#builder"

_DIGEST = re.compile(r"[0-9a-f]+")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=(sha256):([0-9a-f]{64})")


@dataclass(frozen=True)
class Resource:
    """Something that the build took in: SLSA's ResourceDescriptor. ``digest`` is hexadecimal by algorithm.

    ``any_of`` are SHA-256 sums of which one was taken, as in a lock that serves several platforms.
    """

    uri: str
    digest: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    any_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """One bake request of a release. Times are in seconds since 1970; ``internal`` are flags and settings such as ``skip-repro``.

    ``source`` is where the repository is published, ``targets`` are what was asked for: keys with their platforms.
    """

    version: str
    source: str
    commit: Commit
    targets: Mapping[str, tuple[str, ...]]
    builder_id: str
    versions: Mapping[str, str]
    invocation: str
    started: float
    finished: float
    internal: Mapping[str, Any] = field(default_factory=dict)


def predicate(build: Build, artifact: Artifact, resources: Iterable[Resource]) -> dict[str, Any]:
    """The provenance of one image. ``resources`` are its base, its lock files and what these lock; the commit comes first.

    Raises ValueError for a time, a digest or a commit that is none: such a document would be signed and never verify.
    """
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", build.commit.revision):
        msg = f"{build.commit.revision!r} is no commit of git"
        raise ValueError(msg)
    if build.finished < build.started:
        msg = f"a build that began at {_moment(build.started)} cannot have ended at {_moment(build.finished)}"
        raise ValueError(msg)
    commit = Resource(f"git+{build.source}@{build.commit.revision}", {"gitCommit": build.commit.revision}, "source")
    rest = sorted(set(map(_key, resources)))
    return {
        "buildDefinition": {
            "buildType": f"{build.source}/blob/{build.commit.revision}/{_BUILD_TYPE}",
            "externalParameters": {
                "version": build.version,
                "image": artifact.name,
                "target": artifact.target,
                "platforms": [part.platform for part in artifact.parts],
                "repository": artifact.repository,
                "request": {key: list(platforms) for key, platforms in sorted(build.targets.items())},
            },
            "internalParameters": {"versions": dict(sorted(build.versions.items())), **build.internal},
            "resolvedDependencies": [_descriptor(commit), *(json.loads(each) for each in rest)],
        },
        "runDetails": {
            "builder": {
                "id": build.builder_id or f"{build.source}/blob/{build.commit.revision}/{_BUILDER}",
                "version": {"shipyard": build.version},
            },
            "metadata": {
                "invocationId": build.invocation,
                "startedOn": _moment(build.started),
                "finishedOn": _moment(build.finished),
            },
        },
    }


def base(reference: str, digest: str) -> Resource:
    """The base image of the build stages; ``digest`` is ``sha256:...``."""
    algorithm, _, value = digest.partition(":")
    return Resource(f"docker-image://{reference}", {algorithm: value}, "base")


def lock(path: str, content: bytes) -> Resource:
    """A lock file of the repository."""
    return Resource(f"file:{path}", {"sha256": hashlib.sha256(content).hexdigest()}, path)


def wheels(text: str) -> list[Resource]:
    """The Python distributions of a lock file with hashes, as uv and pip-tools write it."""
    found = []
    for entry in re.split(r"\n(?=\S)", text):
        if named := _REQUIREMENT.match(entry):
            sums = sorted({value for _, value in _HASH.findall(entry)})
            uri = f"pkg:pypi/{re.sub(r'[-_.]+', '-', named[1]).lower()}@{named[2]}"
            found.append(Resource(uri, {"sha256": sums[0]}) if len(sums) == 1 else Resource(uri, any_of=tuple(sums)))
    return found


def debs(text: str) -> list[Resource]:
    """The Debian packages of a ``debian.lock``: lines ``amd64 name version sha256``."""
    from packageurl import PackageURL

    lines = [line.split() for line in text.splitlines()]
    rows = [each for each in lines if len(each) == 4 and not each[0].startswith("#")]
    return [
        Resource(PackageURL("deb", "debian", name, version, {"arch": arch}).to_string(), {"sha256": sha256})
        for arch, name, version, sha256 in rows
    ]


def npm(text: str) -> list[Resource]:
    """The packages of a ``package-lock.json`` (version 3) by their integrity."""
    from packageurl import PackageURL

    found = []
    for path, entry in json.loads(text)["packages"].items():
        scope, _, name = path.rpartition("node_modules/")[2].rpartition("/")
        algorithm, _, value = str(entry.get("integrity", "")).partition("-")
        if path and value:
            uri = PackageURL("npm", scope or None, name, entry["version"]).to_string()
            found.append(Resource(uri, {algorithm: base64.b64decode(value).hex()}))
    return found


def _key(resource: Resource) -> str:
    """A descriptor as a text that sorts; the same package of two locks is one."""
    return json.dumps(_descriptor(resource), sort_keys=False)


def _descriptor(resource: Resource) -> dict[str, Any]:
    if wrong := [value for value in (*resource.digest.values(), *resource.any_of) if not _DIGEST.fullmatch(value)]:
        msg = f"{resource.uri}: {wrong[0]!r} is no digest in lower-case hexadecimal digits"
        raise ValueError(msg)
    document: dict[str, Any] = {"uri": resource.uri}
    if resource.digest:
        document["digest"] = dict(sorted(resource.digest.items()))
    if resource.name:
        document["name"] = resource.name
    if resource.any_of:
        document["annotations"] = {"anyOfSha256": list(resource.any_of)}
    return document


def _moment(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
