"""What this checkout knows of its releases: their images, which digests were tested, which of them took a tag last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli

from shipyard import config, source, versions
from shipyard.errors import ShipyardError
from shipyard.journal import Journal
from shipyard.models import Image, Project

#: Steps of the journal that move tags.
_PROMOTING = ("promote", "rollback")


def declared(project: Project, version: str) -> Mapping[str, Image]:
    """The images that a version consists of: those of its git tag, or, where there is none, of this checkout."""
    text = None
    with suppress(ShipyardError):  # no git, no repository
        text = source.text(project.root, f"v{version}", config.IMAGES) if version != project.version else None
    try:
        tables = tomli.loads(text or "")["image"]
        return {name: _image(name, table) for name, table in tables.items()}
    except (tomli.TOMLDecodeError, KeyError, TypeError, AttributeError):
        return project.images


def _image(name: str, table: Mapping[str, Any]) -> Image:
    repository, context, dockerfile, title = (
        str(table[key]) for key in ("repository", "context", "dockerfile", "title")
    )
    targets, platforms = tuple(table["targets"]), tuple(table["platforms"])
    only = {target: tuple(values) for target, values in table.get("only", {}).items()}
    budget = config.budget(table.get("budget", {}))
    return Image(name, repository, context, dockerfile, title, targets, platforms, budget, only)


def tested(project: Project, version: str, key: str, repository: str) -> str:
    """The digest of an image (``api-prod``) that a release tested, by dist/release.json or its journal; empty when unknown."""
    document = _document(project.root / "dist/release.json")
    if document.get("version") == version:
        for each in document.get("images") or ():
            if (each.get("key"), each.get("repository")) == (key, repository):
                return str(each.get("digest", ""))
    if versions.problem(version):  # an image's own label may say anything
        return ""
    facts = Journal(_folder(project) / f"{version}.jsonl").facts("test") or {}
    digests = facts.get("digests")
    return str(digests.get(key, "")) if isinstance(digests, dict) else ""


def sizes(project: Project) -> tuple[str, Mapping[str, Mapping[str, int]]]:
    """The release before this version: its own version, and compressed bytes by image (``api-prod``) and platform.

    By dist/release.json, which is the last release's: of this version itself it names the one before. Empty without any.
    """
    document = _document(project.root / "dist/release.json")
    if document.get("version") == project.version:
        document = document.get("previous") or {}
        return str(document.get("version", "")), document.get("sizes") or {}
    found = {
        image["key"]: {each["platform"]: each["size"] for each in image["platforms"]}
        for image in document.get("images") or ()
    }
    return str(document.get("version", "")), found


def promoted(project: Project, key: str, repository: str, tag: str) -> str:
    """The version to which this checkout moved a tag of an image last; empty when it never did."""
    last, version = "", ""
    for path in sorted(_folder(project).glob("*.jsonl")):
        for entry in Journal(path).entries():
            there = repository.startswith(f"{entry.facts.get('registry')}/")
            moved = entry.facts.get("moved")
            named = moved.get(key) if there and isinstance(moved, dict) else None
            public = entry.step in _PROMOTING and entry.state == "done"
            if public and tag in (named or ()) and entry.time > last:
                last, version = entry.time, path.stem
    return version


def _folder(project: Project) -> Path:
    return project.state / "release"


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
