"""Locked Debian packages: ``docker/<image>/debian.lock``, one line ``ARCH NAME VERSION SHA256`` for each, sorted.

docker/builder/fetch-debs reads them during a build; here they are written anew, compared, and put into words.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shipyard import bases, console, host, machine, plans
from shipyard.commands import bake
from shipyard.engine import Engine, lock
from shipyard.engine.types import home
from shipyard.errors import BuildFailed, ConfigError, LockStale, UnknownName
from shipyard.models import Base, Fault, Image, Project
from shipyard.progress import Progress, Step
from shipyard.run import watch

#: The lock of what every build stage works with, by its path and by the name it has in messages.
BUILDER = "docker/builder/debian.lock"
#: The line of a build step's output that fetch-debs writes: its kind (gone or unlocked), an architecture, packages.
_MARK = re.compile(r"debian-lock: (gone|unlocked) (\S+): (.*)")
_LINE = re.compile(r"([a-z0-9]+) ([a-z0-9][a-z0-9.+-]+) (\S+) ([0-9a-f]{64})")
_HINT = "`invoke lock` takes the versions of today; commit what it changes"


class Package(NamedTuple):
    """One locked package of one architecture."""

    arch: str
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Change:
    """What a refresh did to a package; ``before`` is empty for a new one, ``after`` for one that is no longer needed."""

    name: str
    architectures: tuple[str, ...]
    before: str
    after: str

    def __str__(self) -> str:
        """``haproxy 3.0.10-1 -> 3.0.11-1 (amd64, arm64)``."""
        what = f"{self.before} -> {self.after}" if self.before and self.after else ""
        what = what or (f"{self.after}, new" if self.after else f"{self.before}, no longer needed")
        return f"{self.name} {what} ({', '.join(self.architectures)})"


def place(image: Image) -> str:
    """Path of an image's lock from the project's root: beside its Dockerfile."""
    return (Path(image.dockerfile).parent / "debian.lock").as_posix()


def places(project: Project) -> list[str]:
    """The paths of all locks that there are, the builder's among them."""
    found = dict.fromkeys([*map(place, project.images.values()), BUILDER])
    return [each for each in found if (project.root / each).is_file()]


def read(project: Project, path: str) -> tuple[Package, ...]:
    """The packages of one lock; none where the file is missing. Raises ConfigError for lines that are no lock's."""
    file = project.root / path
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [_LINE.fullmatch(line) for line in lines]
    faults = [
        Fault(f"{path}:{number}", f"{line!r} is not ARCH NAME VERSION SHA256", "run `invoke lock`")
        for number, (line, match) in enumerate(zip(lines, found, strict=True), start=1)
        if not match
    ]
    if faults:
        raise ConfigError(faults)
    return tuple(Package(*match.groups()) for match in found if match)


def changes(before: Iterable[Package], after: Iterable[Package]) -> list[Change]:
    """What differs, sorted by name; architectures for which the same happened are one change."""
    old, new = ({(each.name, each.arch): each for each in packages} for packages in (before, after))
    found: dict[tuple[str, str, str], list[str]] = {}
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            versions = [known[key].version if key in known else "" for known in (old, new)]
            found.setdefault((key[0], versions[0], versions[1]), []).append(key[1])
    return [Change(name, tuple(arches), was, now) for (name, was, now), arches in found.items()]


def refresh(project: Project, engine: Engine, names: Sequence[str] = ()) -> dict[str, list[Change]]:
    """Lock what the mirror has today, for these images or for all and the builder; the changes by the lock's path.

    Raises UnknownName, or BuildFailed where the packages cannot be resolved; the locks are then what they were.
    """
    images = _images(project, names)
    wanted = [place(image) for image in images] + ([] if names or not images else [BUILDER])
    for each in (*wanted, *([BUILDER] if images else [])):
        (project.root / each).touch()  # a build binds it, so it must be there
    with tempfile.TemporaryDirectory(prefix="shipyard-lock-") as scratch:
        folder = Path(scratch)
        with lock("resolving Debian packages", home() / "build.lock"):
            base = bases.ensure(engine, project.base)
            # A value that was never there before, so that no step is taken from the cache.
            status, progress = _bake(project, engine, images, base, folder, f"refresh {time.time_ns()}")
        if status:
            raise _failed(progress)
        fresh = {each: _taken(folder, "*" if each == BUILDER else _name(images, each), each) for each in wanted}
    if not fresh.get(BUILDER, True):
        del fresh[BUILDER]  # no stage of these images fetches anything for the builder
    found = {each: changes(read(project, each), packages) for each, packages in fresh.items()}
    for each, packages in fresh.items():
        machine.replace(project.root / each, "".join(f"{' '.join(package)}\n" for package in packages))
    return found


def stale(
    project: Project, engine: Engine, base: Base, images: Iterable[Image], progress: Progress
) -> LockStale | None:
    """Whether a strict build failed because of locked packages that cannot be had, with all of them named.

    The failed step ended the others before they could say what they lack, so those are asked again.
    """
    steps = [step for step in progress.steps.values() if any(_MARK.search(line) for line in step.log)]
    if not steps:
        return None
    with tempfile.TemporaryDirectory(prefix="shipyard-lock-") as scratch:
        folder = Path(scratch)
        status, _ = _bake(project, engine, locking(project, images), base, folder, "prefer")
        # What is not there at all cannot be replaced either: then it is what the failed step said.
        told = {line for step in steps for line in _said(step, images)} if status else _stale_lines(project, folder)
    return LockStale("\n".join([*sorted(told), _HINT]))


def _images(project: Project, names: Sequence[str]) -> list[Image]:
    if unknown := plans.unknown(project, names):
        raise UnknownName("\n".join(unknown))
    return locking(project, (project.images[name] for name in names or project.images))


def locking(project: Project, images: Iterable[Image]) -> list[Image]:
    """Those images with a stage to write a lock from; each once."""
    stage = re.compile(rf"^FROM .* AS {bake.LOCK_STAGE}$", re.MULTILINE)
    chosen = {image.name: image for image in images}
    return [image for image in chosen.values() if stage.search((project.root / image.dockerfile).read_text())]


def _bake(
    project: Project, engine: Engine, images: Sequence[Image], base: Base, folder: Path, mode: str
) -> tuple[int, Progress]:
    _, epoch = host.revision(project.root)
    secrets = {"ca": bundle} if (bundle := host.ca_bundle()) else {}
    document = bake.locks_document(project, images, base, folder, epoch=epoch, secrets=secrets, debian_lock=mode)
    with Progress([image.name for image in images]) as progress:
        environment = bake.environment(engine.environment())
        status = (
            watch(bake.argv(engine.docker), progress.line, env=environment, cwd=project.root, text=document)
            if images
            else 0
        )
    return status, progress


def _failed(progress: Progress) -> BuildFailed:
    broken = progress.failed()
    lines = [f"    {line}" for line in broken.log] if broken else progress.other[-15:]
    at = f" at: {broken.target} {broken.text}" if broken else ""
    return BuildFailed("\n".join([f"the packages could not be resolved{at}; is a Debian mirror reachable?", *lines]))


def _name(images: Iterable[Image], path: str) -> str:
    return next(image.name for image in images if place(image) == path)


def _taken(folder: Path, name: str, path: str) -> list[Package]:
    """What fetch-debs took for one lock, from the files of all platforms. Raises BuildFailed for two versions of a package."""
    inner = "builder/" if path == BUILDER else ""
    lines = {line for file in folder.glob(f"{name}/*/{inner}*.taken") for line in file.read_text().splitlines()}
    found = [Package(*line.split()) for line in sorted(lines)]
    if len({(each.arch, each.name) for each in found}) < len(found):
        msg = f"{path}: the mirror changed while its packages were resolved; run `invoke lock` again"
        raise BuildFailed(msg)
    return found


def _stale_lines(project: Project, folder: Path) -> set[str]:
    """Sentences from the files that fetch-debs wrote beside what it took: ``gone ARCH NAME LOCKED NOW``."""
    told = set()
    for file in folder.glob("*/**/*.stale"):
        image = project.images[file.relative_to(folder).parts[0]]
        other = project.images.get(file.parent.name)  # a folder of its name has what another image's lock holds
        path = BUILDER if file.parent.name == "builder" else place(other or image)
        told |= {_sentence(path, line) for line in file.read_text().splitlines()}
    return told


def _said(step: Step, images: Iterable[Image]) -> Iterable[str]:
    """Sentences from what fetch-debs printed in a step; its job is named ``IMAGE-TARGET``."""
    mine = [place(image) for image in images if step.target.startswith(f"{image.name}-")]
    path = BUILDER if "builder" in step.text.split()[:2] else max(mine, key=len, default="a lock")
    for line in step.log:
        for kind, arch, packages in _MARK.findall(line):
            yield from (_sentence(path, f"{kind} {arch} {package}") for package in packages.split(";") if package)


def _sentence(path: str, line: str) -> str:
    kind, arch, name, *versions = line.split()
    if kind == "unlocked":
        return f"{path}: {name} for {arch} is needed, and not in the lock; there is {versions[0]}"
    locked, now = versions
    there = f"there is {now} now" if now != "-" else "there is none of that name any more"
    return f"{path}: {name} {locked} for {arch} can no longer be had; {there}"


def as_documents(found: Mapping[str, Sequence[Change]]) -> dict[str, list[str]]:
    """The changes of each lock as lines that a person reads."""
    return {path: [str(change) for change in changed] for path, changed in found.items()}


def show(found: Mapping[str, Sequence[Change]], *, json: bool) -> None:
    """What a refresh changed, by lock."""
    console.answer(as_documents(found), json=json, empty="nothing changed")
