"""Whether a release can be built again: another export of its commit, built without cache, has to give the same digests."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shipyard import config, console, layers, release_build, source
from shipyard.artifacts import Artifact, Commit, Part
from shipyard.engine import Engine
from shipyard.errors import NotReproducible
from shipyard.layers import Entry
from shipyard.layouts import Layout
from shipyard.models import Project
from shipyard.run import run

#: What the second build finds instead of the first one's: another user, another corner of the world, other letters.
_ELSEWHERE = {
    "USER": "somebody",
    "LOGNAME": "somebody",
    "TZ": "Pacific/Kiritimati",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
}
_DAY = 86400
#: Differences that a message lists.
_LISTED = 20


@dataclass(frozen=True)
class Difference:
    """One thing that a rebuild made differently. ``image`` is the artifact's key, ``layer`` a number from 1 with its step.

    ``kind`` is content, mode, owner, time, link, type, missing (from the rebuild), added (by it), or archive: the same
    files in another order or packed in another way. ``layer`` is "config" for the image's settings.
    """

    image: str
    platform: str
    layer: str
    path: str
    kind: str

    def __str__(self) -> str:
        """``egress-prod linux/arm64, layer 2 (COPY /layer /): /etc/haproxy/health.cfg: content``."""
        place = f"{self.image} {self.platform}, {self.layer}"
        return f"{place}: {self.path}: {self.kind}" if self.path else f"{place}: {self.kind}"


def check(
    project: Project, engine: Engine, commit: Commit, artifacts: Iterable[Artifact], images: Sequence[str] = ()
) -> list[Difference]:
    """Build the commit again without cache, elsewhere and as somebody else, and compare; empty when all digests are equal.

    ``images`` names those to look at (default: all of ``artifacts``). Raises what ``release_build.build`` raises.
    """
    wanted = [each for each in artifacts if not images or each.name in images]
    with tempfile.TemporaryDirectory(prefix="shipyard-repro-") as scratch:
        folder = Path(scratch)
        with _umask(0o077):
            other = export(project.root, commit.revision, folder / "another/checkout")
        _age(other, commit.epoch - 400 * _DAY)
        again = release_build.build(
            config.load(other),
            engine,
            commit,
            folder / "layouts",
            names=[each.name for each in wanted],
            no_cache=True,
            environment=_environment(engine, folder / "home"),
        )
        rebuilt = {each.key: each for each in again}
        return [each for first in wanted for each in compare(first, rebuilt.get(first.key))]


def twice(
    project: Project, engine: Engine, images: Sequence[str] = ()
) -> tuple[tuple[Artifact, ...], list[Difference]]:
    """Build the commit that is checked out from one export, and check it: no release is needed for that."""
    commit = source.commit(project.root)
    if not commit.clean:
        console.warn(f"uncommitted changes do not take part; what is built is {commit.revision[:12]}")
    with tempfile.TemporaryDirectory(prefix="shipyard-repro-") as scratch:
        tree = config.load(export(project.root, commit.revision, Path(scratch, "checkout")))
        artifacts = release_build.build(tree, engine, commit, Path(scratch, "layouts"), names=images)
        return artifacts, check(project, engine, commit, artifacts)


def summary(artifacts: Iterable[Artifact]) -> dict[str, list[str]]:
    """``PLATFORM DIGEST`` for each artifact's images."""
    return {each.key: [f"{part.platform} {part.digest}" for part in each.parts] for each in artifacts}


def failed(differences: Sequence[Difference]) -> NotReproducible:
    """The error for a rebuild that gave other bytes."""
    lines = [str(each) for each in differences[:_LISTED]]
    more = [f"and {len(differences) - _LISTED} more"] if len(differences) > _LISTED else []
    hint = "make the step that wrote it depend on its inputs alone: no clock, no random numbers, no order of a folder"
    return NotReproducible("\n".join(["a rebuild of the same commit gave other bytes:", *lines, *more, hint]))


def export(root: Path, revision: str, folder: Path) -> Path:
    """The files of a commit in a new folder, with modes by the current umask."""
    folder.mkdir(parents=True)
    archive = folder.parent / f"{folder.name}.tar"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run(["git", "archive", "--format=tar", f"--output={archive}", revision], cwd=root, env=kept, timeout=120)
    with tarfile.open(archive) as members:
        # Not by the keyword, which Debian 12's Python does not have yet. The archive is git's own, of a commit of ours.
        members.extraction_filter = getattr(tarfile, "data_filter", None)
        members.extractall(folder)
    archive.unlink()
    for path in folder.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod((0o777 if executable else 0o666) & ~_current_umask())
    return folder


def compare(first: Artifact, second: Artifact | None) -> list[Difference]:
    """What differs between two builds of one artifact, platform by platform."""
    parts = {part.platform: part for part in second.parts} if second else {}
    found = []
    for part in first.parts:
        other = parts.get(part.platform)
        if other is None or second is None:
            found.append(Difference(first.key, part.platform, "the whole image", "", "missing"))
        elif part.digest != other.digest:
            found += [
                Difference(first.key, part.platform, layer, path, kind)
                for layer, path, kind in _parts(Layout(first.layout), part, Layout(second.layout), other)
            ]
    return found


def _parts(one: Layout, first: Part, two: Layout, second: Part) -> Iterator[tuple[str, str, str]]:
    """Layer, path and kind of each difference between two manifests of one platform."""
    configs = [layout.document(layout.blobs(part)[0].digest) for layout, part in ((one, first), (two, second))]
    steps = [str(step.get("created_by", "")) for step in configs[0].get("history", ()) if not step.get("empty_layer")]
    found = False
    for number, (left, right, step) in enumerate(zip_longest(first.layers, second.layers, steps), start=1):
        if left != right:
            found = True
            name = f"layer {number}" + (f" ({step.removesuffix(' # buildkit')})" if step else "")
            if left is None or right is None:
                yield name, "", "added" if left is None else "missing"
                continue
            yield from ((name, path, kind) for path, kind in _files(one.blob(left), two.blob(right)))
    settings = [{**document, "rootfs": None} for document in configs]  # the layers' digests: named above
    for path in _fields(settings[0], settings[1]):
        found = True
        yield "config", path, "content"
    if not found:
        yield "manifest", "", "content"


def _files(one: Path, two: Path) -> Iterator[tuple[str, str]]:
    before, after = dict(layers.entries(one)), dict(layers.entries(two))
    found = False
    for path in sorted({*before, *after}):
        for kind in _kinds(before.get(path), after.get(path)):
            found = True
            yield f"/{path}", kind
    if not found:
        yield "", "archive"


def _kinds(one: Entry | None, two: Entry | None) -> list[str]:
    if one is None or two is None:
        return ["added" if one is None else "missing"]
    pairs = {
        "type": (one.kind, two.kind),
        "content": (one.content, two.content),
        "link": (one.link, two.link),
        "mode": (one.mode, two.mode),
        "owner": (one.owner, two.owner),
        "time": (one.mtime, two.mtime),
    }
    return [kind for kind, (left, right) in pairs.items() if left != right]


def _fields(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """The places at which two JSON documents differ: ``config.Labels.title``."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in sorted({*one, *two}):
            yield from _fields(one.get(key), two.get(key), f"{path}.{key}" if path else str(key))
    elif one != two:
        yield path


def _environment(engine: Engine, home: Path) -> dict[str, str]:
    home.mkdir()
    found = engine.environment()
    # Where the client keeps its settings follows HOME unless it is said: this is the same engine's client.
    settings = found.get("DOCKER_CONFIG") or str(Path(found.get("HOME", "/"), ".docker"))
    return {**found, **_ELSEWHERE, "HOME": str(home), "DOCKER_CONFIG": settings}


def _age(folder: Path, first: int) -> None:
    """Give every file a date of its own, beginning with ``first`` (seconds since 1970)."""
    for count, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, (first + count * 61, first + count * 61), follow_symlinks=False)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _current_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
