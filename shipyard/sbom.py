"""Bills of materials of a release: one document for each platform of each image, what they say together, and a verb's view."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from shipyard import bill, components, console, contents, inputs, licenses, machine, plans, source, tags
from shipyard.artifacts import RELEASED, Artifact, Commit, Component, Part
from shipyard.components import Found
from shipyard.errors import BuildFailed, UnknownName
from shipyard.layouts import Layout
from shipyard.models import Project


@dataclass(frozen=True)
class Count:
    """How many packages one document lists. ``unlicensed`` names those that no licence is known of."""

    image: str
    platform: str
    debian: int
    python: int
    npm: int
    unlicensed: tuple[str, ...]
    file: str


def serial(digest: str) -> str:
    """The serial number of the document about a platform's manifest: made of its digest, so that anyone can check it."""
    return uuid5(NAMESPACE_URL, f"pkg:oci/{digest}").urn


def path(folder: Path, artifact: Artifact, part: Part) -> Path:
    """Where a document lies below the folder of a release: ``sbom/api-prod-arm64.cdx.json``."""
    return folder / "sbom" / f"{artifact.key}-{bill.architecture(part).replace('/', '-')}.cdx.json"


def write(root: Path, folder: Path, artifacts: Sequence[Artifact], commit: Commit) -> dict[Path, str]:
    """Make the documents of all platforms below the folder of a release; their texts by path, in the order of ``artifacts``.

    Raises BuildFailed where a layout is damaged.
    """
    from concurrent.futures import ThreadPoolExecutor

    work = [(artifact, part) for artifact in artifacts for part in artifact.parts]
    biggest = sorted(work, key=lambda each: -each[1].size)
    # Unzipping is most of it and lets other threads run; the biggest first, so that none comes last and alone.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        texts = list(pool.map(lambda each: make(root, each[0], each[1], commit, folder.parent / "layers"), biggest))
    made = {path(folder, *each): text for each, text in zip(biggest, texts, strict=True)}
    for place, text in made.items():
        machine.replace(place, text)
    return {place: made[place] for place in (path(folder, *each) for each in work)}


def make(root: Path, artifact: Artifact, part: Part, commit: Commit, kept: Path | None = None) -> str:
    """The document of one platform's image. ``root`` is the checkout that has the commit, for the lock files in it.

    ``kept`` is a folder that remembers what is in layers.
    """
    layout, folder = Layout(artifact.layout), f"docker/{artifact.name}"
    dockerfile = source.text(root, commit.revision, f"{folder}/Dockerfile") or ""
    locks = dict.fromkeys([f"{folder}/debian.lock", *inputs.locks(dockerfile)])
    locked = "".join(source.text(root, commit.revision, each) or "" for each in locks)
    npm = source.text(root, commit.revision, f"{folder}/package-lock.json") or ""
    found = installed(contents.read(layout, part, kept), bill.architecture(part), locked, npm)
    return bill.document(artifact, part, commit, _labels(layout, part), found, serial(part.digest))


def installed(inside: contents.Contents, architecture: str, locked: str, npm: str) -> list[Found]:
    """Everything in an image. ``locked`` are its ``debian.lock``s, ``npm`` its ``package-lock.json``; empty when it has none."""
    words = (line.split() for line in locked.splitlines())
    hashes = {(each[1], each[2]): each[3] for each in words if len(each) == 4 and each[0] == architecture}
    debian = components.debian(inside.status, inside.release, inside.copyright, hashes)
    for status in inside.aside:  # of another suite than os-release tells, so of none
        debian += components.debian(status, "", inside.copyright, hashes)
    minimal = (each.component for each in debian if re.fullmatch(r"python3\.\d+-minimal", each.component.name))
    version = next((re.split(r"[-+~]", each.version or "")[0] for each in minimal), "3")
    python = components.python(inside.metadata, architecture, version)
    return [*debian, *python, *components.npm(npm, architecture, inside.local)]


def summary(documents: Iterable[tuple[str, str]]) -> tuple[Component, ...]:
    """Every component of some documents once, by kind and name. ``documents`` are the keys of artifacts with their texts."""
    found: dict[tuple[str, str, str], tuple[set[str], set[str]]] = {}
    for key, text in documents:
        for each in _listed(text):
            stated, images = found.setdefault((_kind(each), _name(each), each.get("version", "")), (set(), set()))
            stated.update(_licences(each))
            images.add(key)
    return tuple(
        Component(name, version, kind, tuple(sorted(stated)), tuple(sorted(images)))
        for (kind, name, version), (stated, images) in sorted(found.items())
    )


def _listed(text: str) -> list[dict[str, Any]]:
    """The components of a document but for files, which belong to one of the others."""
    return [each for each in json.loads(text).get("components", []) if each["type"] != "file"]


def _kind(component: Mapping[str, Any]) -> str:
    """``deb``, ``pypi`` or ``npm``; what else there is by its type in CycloneDX."""
    kind = re.match(r"pkg:(deb|pypi|npm)/", component.get("purl", ""))
    return kind[1] if kind else str(component["type"])


def _name(component: Mapping[str, Any]) -> str:
    return "/".join(part for part in (component.get("group"), component["name"]) if part)


def _licences(component: Mapping[str, Any]) -> list[str]:
    stated = [each.get("license", each) for each in component.get("licenses", [])]
    return [each.get("id") or each.get("name") or each["expression"] for each in stated]


def count(artifact: Artifact, part: Part, place: Path, text: str) -> Count:
    """What a document lists, in numbers."""
    packages = [each for each in _listed(text) if _kind(each) in ("deb", "pypi", "npm")]
    kinds = [_kind(each) for each in packages]
    unlicensed = tuple(_name(each) for each in packages if licenses.UNKNOWN in _licences(each))
    numbers = (kinds.count("deb"), kinds.count("pypi"), kinds.count("npm"))
    return Count(artifact.key, part.platform, *numbers, unlicensed, str(place))


def renew(project: Project, names: Sequence[str]) -> list[Count]:
    """Make the documents of what was built for release with the current version.

    Raises UnknownName for an image that is not declared, BuildFailed when nothing was built or a layout is damaged.
    """
    if unknown := plans.unknown(project, names):
        raise UnknownName("\n".join(unknown))
    folder, counts = project.state / "release" / project.version, []
    for artifact in _built(project, folder, names):
        labels = _labels(Layout(artifact.layout), artifact.parts[0])
        written = write(project.root, folder, [artifact], _commit(artifact, labels))
        counts += [count(artifact, part, *each) for part, each in zip(artifact.parts, written.items(), strict=True)]
    return counts


def show(counts: Sequence[Count], *, json: bool = False) -> None:
    """One line for each document, and the packages that no licence is known of."""
    if json:
        console.document(counts)
        return
    header = ("image", "platform", "debian", "python", "npm", "no licence", "file")
    numbers = [(each.debian, each.python, each.npm, len(each.unlicensed)) for each in counts]
    console.table(
        header,
        [(each.image, each.platform, *map(str, row), each.file) for each, row in zip(counts, numbers, strict=True)],
    )
    for name in sorted({name for each in counts for name in each.unlicensed}):
        console.warn(f"{name}: nothing in the image tells its licence; it is listed as {licenses.UNKNOWN}")


def _built(project: Project, folder: Path, names: Sequence[str]) -> list[Artifact]:
    found = []
    for image in (project.images[name] for name in names or project.images):
        for target in (each for each in RELEASED if each in image.targets):
            layout = Layout(folder / f"{image.name}-{target}")
            if (layout.path / "index.json").exists():
                what = (image.name, target, image.repository, tags.tag(project.version, target))
                found.append(Artifact(*what, layout.digest, layout.path, layout.parts()))
    if not found:
        wanted = ", ".join(names) or "no image"
        msg = f"{folder}: {wanted} of version {project.version} was built for release; `invoke release` builds them"
        raise BuildFailed(msg)
    return found


def _labels(layout: Layout, part: Part) -> dict[str, str]:
    config = layout.document(layout.blobs(part)[0].digest).get("config")
    labels = config.get("Labels") if isinstance(config, dict) else None
    return {str(key): str(value) for key, value in (labels or {}).items()}


def _commit(artifact: Artifact, labels: Mapping[str, str]) -> Commit:
    """The commit that an image is from, by its own labels: the checkout may have moved on."""
    created = labels.get(bill.OCI + "created", "")
    try:
        epoch = int(datetime.fromisoformat(created).timestamp())
    except ValueError as problem:
        msg = f"{artifact.layout}: its label {bill.OCI}created is no time ({created!r}); build it again"
        raise BuildFailed(msg) from problem
    return Commit(labels.get(bill.OCI + "revision", ""), epoch, "", True)
