"""From what the user asked for to jobs: pure decisions over the project's files. Nothing is started here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from shipyard import inputs, owned, tags
from shipyard.errors import UnknownName
from shipyard.models import JOBS, Base, Fault, Image, Job, Project
from shipyard.names import perhaps

#: What values of build arguments look like, by the end of their names, and what to write: the compiler would refuse others late.
_GRAMMARS = {
    "_ARCHITECTURES": (
        re.compile(r"[1-9]\d{1,2}[af]?(;[1-9]\d{1,2}[af]?)*", re.ASCII),
        "compute capabilities such as 80;86;90",
    ),
    JOBS: (re.compile(r"[1-9]\d{0,2}", re.ASCII), "a number such as 2"),
}


def unknown(project: Project, names: Iterable[str]) -> list[str]:
    """What is wrong with names that no image has, each with its nearest match."""
    return [
        f'image "{name}": not declared in docker/images.toml; {perhaps(name, project.images)}'
        for name in names
        if name not in project.images
    ]


def select(project: Project, names: Iterable[str], target: str) -> list[tuple[Image, str]]:
    """The images asked for, or all of them, each with the target to build.

    Without names, images that lack the target are left out.
    Raises UnknownName for all unknown names at once, each with its nearest match.
    """
    names = list(dict.fromkeys(names))
    problems = unknown(project, names)
    chosen = [project.images[name] for name in names or project.images if name in project.images]
    every = {each for image in project.images.values() for each in image.targets}
    if target not in every:
        problems.append(f'target "{target}": no image has it; {perhaps(target, every)}')
    elif names:
        problems += [
            f'image "{image.name}" has no target "{target}"; it has {", ".join(image.targets)}'
            for image in chosen
            if target not in image.targets
        ]
    if problems:
        raise UnknownName("\n".join(problems))
    return [(image, target) for image in chosen if target in image.targets]


def named(project: Project, references: Iterable[str]) -> list[tuple[Image, str]]:
    """The images and targets that references name; those that are not ours, such as a hub's, are left out."""
    wanted = set(references)
    return [
        (image, target)
        for image in project.images.values()
        for target in image.targets
        if tags.reference(image.repository, project.version, target) in wanted
    ]


def platforms(chosen: Sequence[tuple[Image, str]], wanted: str, native: str) -> tuple[str, ...]:
    """``wanted`` is a comma-separated list, ``all``, or empty for the engine's own platform. Raises UnknownName."""
    declared = [image.platforms_of(target) for image, target in chosen]
    common = [each for each in declared[0] if all(each in every for every in declared)] if declared else []
    if wanted == "all":
        return tuple(common)
    asked = [part.strip() for part in wanted.split(",") if part.strip()] or [native]
    asked = [part if "/" in part else f"linux/{part}" for part in asked]
    problems = [
        f'platform "{part}": not declared for these images; {perhaps(part, common)}'
        for part in asked
        if part not in common
    ]
    if problems:
        raise UnknownName("\n".join(problems))
    return tuple(dict.fromkeys(asked))


def faults(arguments: Mapping[str, str]) -> list[Fault]:
    """What is wrong with values of build arguments that come from the environment."""
    return [
        Fault(f"{name} in the environment", f'"{value}" cannot be', f"write {wanted}, or unset it")
        for name, value in arguments.items()
        for end, (grammar, wanted) in _GRAMMARS.items()
        if name.endswith(end) and not grammar.fullmatch(value)
    ]


def job(
    project: Project,
    image: Image,
    target: str,
    wanted: tuple[str, ...],
    base: Base | None,
    registry: str = "",
    arguments: Mapping[str, str] | None = None,
) -> Job:
    """One job with its input hash. Platforms are not part of it: an image may hold more of them than were asked for.

    ``arguments`` are build arguments; each counts, but for how many things are done at once.
    """
    files = inputs.digests(project.root, image.context, image.dockerfile)
    settings = {
        "version": project.version,
        "source": project.source,
        "licenses": project.licenses,
        "title": image.title,
        "target": target,
        "base": base.digest if base else "",
        **{name: value for name, value in (arguments or {}).items() if not name.endswith(JOBS)},
    }
    reference = tags.reference(image.repository, project.version, target, registry)
    combined = inputs.combine(files, settings)
    return Job(image, target, wanted, reference, files, combined, arguments or {}, owned.mark(project.root))
