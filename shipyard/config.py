"""Reads and validates what a checkout declares: ``docker/images.toml`` and ``VERSION``.

Every fault is collected, with its place and a suggestion, and raised together as one ConfigError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli

from shipyard.errors import ConfigError
from shipyard.models import BaseImage, Fault, Image, Project
from shipyard.names import perhaps

IMAGES = "docker/images.toml"

#: Semantic Versioning 2.0.0, https://semver.org (the grammar of its section "Is there a suggested regular expression").
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
#: OCI distribution specification 1.1, "Pulling manifests": the grammar of <name>.
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_PLATFORM = re.compile(r"linux/(amd64|arm64)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(kB|MB|GB)")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
_TARGETS = ("prod", "dev", "debug", "local", "cuda")
_ROOT_KEYS = ("source", "licenses", "base", "image")
_BASE_KEYS = ("image", "suite")
_IMAGE_KEYS = ("repository", "title", "context", "dockerfile", "targets", "platforms", "budget", "only", "arguments")
#: What a variable is called that a build may take: POSIX's names, in capitals as Dockerfiles write them.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def load(root: Path) -> Project:
    """Read the project at ``root``. Raises ConfigError with every fault of both files."""
    faults: list[Fault] = []
    version = _version(root, faults)
    table = _toml(root, faults)
    reader = _Reader(root, faults)
    project = reader.project(table, version) if table is not None else None
    if faults or project is None:
        raise ConfigError(faults)
    return project


def _version(root: Path, faults: list[Fault]) -> str:
    try:
        text = (root / "VERSION").read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        faults.append(Fault("VERSION", f"cannot be read ({_short(problem)})", "write one line such as 1.2.3"))
        return ""
    if not _SEMVER.fullmatch(text):
        faults.append(Fault("VERSION", f'"{text[:40]}" is not a semantic version', "write one line such as 1.2.3"))
    elif "+" in text:
        faults.append(Fault("VERSION", f'"{text}" has build metadata, which no image tag can hold', "drop the + part"))
    return text


def _toml(root: Path, faults: list[Fault]) -> dict[str, Any] | None:
    try:
        return tomli.loads((root / IMAGES).read_text())
    except (OSError, UnicodeDecodeError) as problem:
        faults.append(Fault(IMAGES, f"cannot be read ({_short(problem)})"))
    except tomli.TOMLDecodeError as problem:
        faults.append(Fault(IMAGES, f"is not valid TOML: {problem}"))
    return None


def _short(problem: Exception) -> str:
    return problem.strerror or str(problem) if isinstance(problem, OSError) else str(problem)


def budget(table: Mapping[str, Any]) -> dict[str, int]:
    """Sizes in bytes of a valid table of budgets; what is no size is left out."""
    found = {target: _SIZE.fullmatch(value) for target, value in table.items() if isinstance(value, str)}
    return {target: _bytes(match) for target, match in found.items() if match}


def _bytes(size: re.Match[str]) -> int:
    return round(float(size[1]) * _UNITS[size[2]])


class _Reader:
    """Turns tables into models, noting faults instead of stopping at the first one."""

    def __init__(self, root: Path, faults: list[Fault]) -> None:
        self.root, self.faults = root, faults

    def project(self, table: dict[str, Any], version: str) -> Project:
        self.known(table, _ROOT_KEYS, "")
        images = self.table(table, "image", "")
        if not images:
            self.fault("image", "no image is declared", "add a table such as [image.api]")
        self.distinct(images)
        return Project(
            root=self.root,
            version=version,
            source=self.text(table, "source", ""),
            licenses=self.text(table, "licenses", ""),
            base=self.base(self.table(table, "base", "")),
            images={name: self.image(name, value) for name, value in images.items()},
        )

    def distinct(self, images: dict[str, Any]) -> None:
        owners: dict[str, str] = {}
        for name, table in images.items():
            repository = table.get("repository") if isinstance(table, dict) else None
            if isinstance(repository, str) and owners.setdefault(repository, name) != name:
                problem = f'"{repository}" is the repository of image.{owners[repository]} too'
                self.fault(f"image.{name}.repository", problem, "give each image its own")

    def base(self, table: dict[str, Any]) -> BaseImage:
        self.known(table, _BASE_KEYS, "base.")
        return BaseImage(self.text(table, "image", "base."), self.text(table, "suite", "base."))

    def image(self, name: str, table: Any) -> Image:
        place = f"image.{name}."
        if not isinstance(table, dict):
            self.fault(f"image.{name}", "must be a table", f"write [image.{name}]")
            table = {}
        else:
            self.known(table, _IMAGE_KEYS, place)
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            self.fault(f"image.{name}", "a name is lower-case letters, digits and dashes")
        repository = self.text(table, "repository", place)
        if repository and not _REPOSITORY.fullmatch(repository):
            self.fault(
                place + "repository",
                f'"{repository}" is not a repository name',
                "use lower case, for example llm-call-api",
            )
        targets = self.choices(table, "targets", place, _TARGETS)
        return Image(
            name=name,
            repository=repository,
            title=self.text(table, "title", place),
            context=self.path(table, "context", place, folder=True),
            dockerfile=self.path(table, "dockerfile", place, folder=False),
            targets=targets,
            platforms=self.platforms(table, place),
            budget=self.budget(table, place, targets),
            only=self.only(table, place, targets),
            arguments=self.arguments(table, place, targets),
        )

    def platforms(self, table: dict[str, Any], place: str) -> tuple[str, ...]:
        values = self.strings(table, "platforms", place)
        for value in values:
            if not _PLATFORM.fullmatch(value):
                hint = perhaps(value, ("linux/amd64", "linux/arm64"))
                self.fault(place + "platforms", f'"{value}" is not a platform we can build', hint)
        return values

    def budget(self, table: dict[str, Any], place: str, targets: tuple[str, ...]) -> Mapping[str, int]:
        sizes: dict[str, int] = {}
        for target, value in self.table(table, "budget", place, optional=True).items():
            where = f"{place}budget.{target}"
            if target not in targets:
                self.fault(where, "no such target", perhaps(target, targets))
            match = _SIZE.fullmatch(value) if isinstance(value, str) else None
            if match:
                sizes[target] = _bytes(match)
            else:
                self.fault(where, f"{value!r} is not a size", 'write for example "90MB"')
        return sizes

    def only(self, table: dict[str, Any], place: str, targets: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        found, platforms = self.lists(table, "only", place, targets), table.get("platforms")
        platforms = platforms if isinstance(platforms, list) else []
        for target, values in found.items():
            for value in values:
                if value not in platforms:
                    problem = f'"{value}" is not among the platforms of this image'
                    self.fault(f"{place}only.{target}", problem, perhaps(value, platforms))
        return found

    def arguments(self, table: dict[str, Any], place: str, targets: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        found = self.lists(table, "arguments", place, targets)
        for target, values in found.items():
            for value in values:
                if not _VARIABLE.fullmatch(value):
                    problem = f'"{value}" is not the name of a build argument'
                    self.fault(f"{place}arguments.{target}", problem, "write for example CUDA_ARCHITECTURES")
        return found

    def lists(
        self, table: dict[str, Any], key: str, place: str, targets: tuple[str, ...]
    ) -> Mapping[str, tuple[str, ...]]:
        """A table with a list of strings for some targets."""
        found = self.table(table, key, place, optional=True)
        for target in found:
            if target not in targets:
                self.fault(f"{place}{key}.{target}", "no such target", perhaps(target, targets))
        return {target: self.strings(found, target, f"{place}{key}.") for target in found}

    def choices(self, table: dict[str, Any], key: str, place: str, known: tuple[str, ...]) -> tuple[str, ...]:
        values = self.strings(table, key, place)
        for value in values:
            if value not in known:
                self.fault(place + key, f'unknown value "{value}"', perhaps(value, known))
        return values

    def path(self, table: dict[str, Any], key: str, place: str, *, folder: bool) -> str:
        value = self.text(table, key, place)
        full = self.root / value
        inside = full.resolve().is_relative_to(self.root.resolve())
        if value and not (inside and (full.is_dir() if folder else full.is_file())):
            self.fault(place + key, f'"{value}" is not a {"folder" if folder else "file"} of this checkout')
        return value

    def strings(self, table: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
        value = self.get(table, key, place)
        if value is None:
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.fault(place + key, "must be a non-empty list of strings", f'write {key} = ["..."]')
            return ()
        if len(set(value)) < len(value):
            self.fault(place + key, "names a value twice")
        return tuple(dict.fromkeys(value))

    def text(self, table: dict[str, Any], key: str, place: str) -> str:
        value = self.get(table, key, place)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.strip():
            self.fault(place + key, f"must be a non-empty string, not {value!r}")
            return ""
        return value

    def table(self, table: dict[str, Any], key: str, place: str, *, optional: bool = False) -> dict[str, Any]:
        value = table.get(key, {}) if optional else self.get(table, key, place)
        if value is not None and not isinstance(value, dict):
            self.fault(place + key, "must be a table")
        return value if isinstance(value, dict) else {}

    def get(self, table: dict[str, Any], key: str, place: str) -> Any:
        if key not in table:
            self.fault(place + key, "is missing")
        return table.get(key)

    def known(self, table: dict[str, Any], keys: tuple[str, ...], place: str) -> None:
        for key in table:
            if key not in keys:
                self.fault(place + key, "unknown key", perhaps(key, keys))

    def fault(self, place: str, problem: str, hint: str = "") -> None:
        self.faults.append(Fault(f"{IMAGES}: {place}", problem, hint))
