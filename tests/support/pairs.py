"""Two checkouts that release the same version on one engine at once: one is good, one fails its own tests."""

from __future__ import annotations

from pathlib import Path

from shipyard.layouts import Layout
from shipyard.registry import Registry
from tests.support.clones import IMAGES, Clone

REASON = "not the point here"
#: What the tests of a clone's images begin with: both are to be at it before either looks at an image.
_MEET = """\
import time
from pathlib import Path


def test_both_are_here():
    Path({mine!r}).touch()
    end = time.monotonic() + 90
    while not Path({other!r}).exists():
        assert time.monotonic() < end, "the other release has not come"
        time.sleep(0.01)
"""


class Pair:
    """A good and a bad checkout of one version below ``root``; each file of each image differs between them."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.good, self.bad = (Clone(root / name, registry) for name in ("good", "bad"))
        for clone, text in ((self.good, "good"), (self.bad, "broken")):
            for name in IMAGES:
                clone.write(f"docker/{name}/content", f"{text} {name} of {root}\n")
            clone.commit("Content of its own")

    @property
    def both(self) -> tuple[Clone, Clone]:
        """The good one first."""
        return self.good, self.bad

    def meet(self) -> None:
        """Let the tests of both wait for each other."""
        for mine, other in (self.both, self.both[::-1]):
            places = {
                "mine": str(self.root / mine.root.name) + ".here",
                "other": str(self.root / other.root.name) + ".here",
            }
            mine.write("tests/images/test_a_meeting.py", _MEET.format(**places))
            mine.commit("Tests that wait")

    def release(self) -> tuple[list[int], list[str]]:
        """Release both at once; exit statuses and what was said, the good one's first."""
        started = [clone.start("release", "--skip-repro", REASON) for clone in self.both]
        said = [process.communicate(timeout=240)[0] for process in started]
        return [process.returncode for process in started], said


def layouts(clone: Clone) -> dict[str, Layout]:
    """What a clone has built for its release, by the repository's name."""
    return {
        f"llm-call-test-{name}": Layout(clone.root / f".shipyard/release/{clone.version}/{name}-prod")
        for name in IMAGES
    }


def published(clone: Clone) -> list[str]:
    """Whatever of a clone's images is in its registry: index and platforms, by digest."""
    registry = Registry(clone.registry)
    return [
        f"{path}@{digest}"
        for path, layout in layouts(clone).items()
        for digest in (layout.digest, *(part.digest for part in layout.parts()))
        if registry.head(path, digest)
    ]


def wrong(pair: Pair) -> list[str]:
    """What is not as it must be after both were released; empty when all is right."""
    statuses, said = pair.release()
    problems = []
    if statuses != [0, 7]:
        problems.append(f"exit codes {statuses}, not [0, 7]")
    problems += [
        f"{who}: No such image" for who, text in zip(("good", "bad"), said, strict=True) if "No such image" in text
    ]
    problems += [f"published although its tests fail: {each}" for each in published(pair.bad)]
    registry, public = Registry(pair.good.registry), pair.good.public()
    for path, layout in layouts(pair.good).items():
        found = registry.manifest(path, pair.good.version)
        if found is None or found[0] != layout.raw(layout.digest):
            problems.append(f"{path}:{pair.good.version} is {found[2] if found else 'not there'}, not {layout.digest}")
        tags = {digest for name, digest in public.items() if name.startswith(f"{path}:")}
        if tags - {layout.digest}:
            problems.append(f"{path}: tags name {tags}")
    if problems:
        problems += [f"--- {who}\n{text[-1500:]}" for who, text in zip(("good", "bad"), said, strict=True)]
    return problems
