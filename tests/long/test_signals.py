"""Signals at random moments of small releases: each stops at the next step at the latest, promotes nothing, and goes on later.

Releases start from kept states, as what was done is not done again; after some moments each is finished and compared with
one that nothing disturbed. SHIPYARD_SIGNAL_MOMENTS is how many moments each signal gets, SHIPYARD_SIGNAL_SEED the dice's seed.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import registries
from tests.support.clones import Clone
from tests.support.dispositions import by_default
from tests.support.launcher import launcher

MOMENTS = int(os.environ.get("SHIPYARD_SIGNAL_MOMENTS", "5"))
SEED = os.environ.get("SHIPYARD_SIGNAL_SEED", "16")
#: Moments of one release before it is finished.
CHAIN = 5
#: Seconds that Python and the preflight take.
_BEFORE = 1.5
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
#: Verbs that take a release to a state which is kept, and how often one starts there: the end is where tags move.
STATES = {"": 1, "test": 1, "push": 2, "sign": 4}
MARK = "SHIPYARD_TEST_MARK"


@dataclass
class Kept:
    """A state of a release: the checkout and the registry's storage, and the seconds that are left."""

    clone: Path
    storage: Path
    seconds: float


@dataclass
class World:
    """What all releases start from, and the one that nothing disturbed."""

    whole: Clone
    port: int
    kept: dict[str, Kept]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("signals")
    with registries.running(folder / "registry") as registry:
        whole = Clone(folder / "whole", registry.address)
        whole.release("--bump", "patch")
        expected, steps = whole.state(), whole.document()["steps"]
        twin = whole.twin(folder / "twin", registry.address)
        twin.git("tag", "--delete", "v1.2.4")
        whole.state = lambda: expected  # type: ignore[method-assign]
    found = World(whole, registry.port, {})
    launcher(twin.root)
    with (twin.root / ".git/info/exclude").open("a") as ignored:
        ignored.write("/scripts/\n/requirements/\n/.venv/\n")
    with registries.running(folder / "second", port=registry.port) as second:
        for verb in STATES:
            if verb:
                twin.invoke(verb, *([] if verb == "sign" else ["--bump", "patch"]))
            second.kill()  # so that its storage is whole
            place = folder / f"kept-{verb}"
            shutil.copytree(twin.root, place / "clone", symlinks=True)
            if second.storage.exists():
                shutil.copytree(second.storage, place / "storage")
            found.kept[verb] = Kept(place / "clone", place / "storage", _left(steps, verb))
            second.start()
    yield found


def _left(steps: list[dict[str, Any]], verb: str) -> float:
    """Seconds of a release after a step, with those that every command takes before its first one."""
    names = [step["name"] for step in steps]
    return _BEFORE + sum(step["seconds"] for step in steps[names.index(verb) + 1 if verb else 0 :])


class at_work:
    """A copy of a state, with a registry of its own at the same address."""

    def __init__(self, world: World, kept: Kept, folder: Path) -> None:
        self._kept, self._folder = kept, folder
        shutil.copytree(kept.clone, folder / "clone", symlinks=True)
        if kept.storage.exists():
            shutil.copytree(kept.storage, folder / "registry/storage")
        self._registry = registries.running(folder / "registry", port=world.port)

    def __enter__(self) -> tuple[Clone, registries.Served]:
        registry = self._registry.__enter__()
        clone = object.__new__(Clone)
        clone.root, clone.registry, clone.extra = self._folder / "clone", registry.address, {}
        return clone, registry

    def __exit__(self, *exception: object) -> None:
        self._registry.__exit__(*exception)  # type: ignore[arg-type]
        shutil.rmtree(self._folder)


class Moment:
    """One release that gets a signal after ``delay`` seconds."""

    def __init__(self, clone: Clone, registry: registries.Served) -> None:
        self._clone, self._registry = clone, registry
        self._mark = secrets.token_hex(8)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GIT_"))}
        environment = {**kept, "SHIPYARD_REGISTRY": clone.registry, MARK: self._mark}
        argv = [clone.root / "scripts/invoke", "release", "--bump", "patch"]
        self._process = subprocess.Popen(
            by_default(argv),
            cwd=clone.root,
            env=environment,
            process_group=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hit(self, number: signal.Signals, delay: float) -> bool:
        """Send it and look at what follows; false when the release had ended before."""
        try:
            _, said = self._process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            tagged = self._tagged()
            self._process.send_signal(number)
            at = time.time()
            _, said = self._process.communicate(timeout=120)
        else:
            assert self._process.returncode == 0, said
            return False
        code = self._process.returncode
        if code == 0:  # it came while Python ended
            assert "has reached promote" in said
            return False
        self._hold(number, code, said)
        units = self._moved(at) + (self._tagged() and not tagged)
        assert units <= 1, f"{units} tags were moved after the signal (one may have been under way)\n{said}"
        return True

    def _hold(self, number: signal.Signals, code: int, said: str) -> None:
        assert code in (128 + number, -number), f"{number.name}: {code}\n{said}"
        if code > 0:  # in the first milliseconds nobody listens yet: the shell that starts it says so
            assert said.splitlines()[-1] == f"error: {WORDS[number]}", said
            how = said.splitlines()[-2]
            assert "goes on from here: invoke release --bump patch" in how or "run the same command again" in how, said
        assert "Traceback" not in said
        assert self._left() == [], said
        release = self._clone.root / ".shipyard/release"
        assert not (release / "lease.json").exists(), said
        assert self._clone.git("status", "--porcelain") == ""
        for path in release.glob("*.jsonl"):
            assert path.read_text().endswith("\n")

    def _tagged(self) -> bool:
        return bool(self._clone.git("tag", "--list", "v1.2.4"))

    def _moved(self, at: float) -> int:
        """Public tags that were written after a time (seconds since 1970), as the registry tells."""
        found = 0
        for line in self._registry.log.read_text().splitlines():
            if '"response completed"' not in line:
                continue
            said = json.loads(line)
            name = said["http.request.uri"].rpartition("/")[2]
            public = "/manifests/" in said["http.request.uri"] and not name.startswith(("sha256:", "sha256-"))
            if said["http.request.method"] == "PUT" and public and _seconds(said["time"]) > at:
                found += 1
        return found

    def _left(self) -> list[str]:
        """Processes of this release that still run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes():
                    found.append(f"{folder.name}: {(folder / 'cmdline').read_bytes()!r}")
            except OSError:
                continue
        return found


def _seconds(text: str) -> float:
    """Of a time in RFC 3339; Python's own reader takes nine digits of a second from version 3.11 on."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("number", list(WORDS), ids=lambda number: number.name)
def test_at_random_moments(world: World, tmp_path: Path, number: signal.Signals) -> None:
    dice = random.Random(f"{SEED} {number.name}")
    hits, finished = 0, 0
    while hits < MOMENTS:
        (name,) = dice.choices(list(STATES), list(STATES.values()))
        kept = world.kept[name]
        with at_work(world, kept, tmp_path / f"release-{finished}") as (clone, registry):
            for _ in range(min(CHAIN, MOMENTS - hits)):
                if not Moment(clone, registry).hit(number, dice.uniform(0, kept.seconds)):
                    break
                hits += 1
            clone.release("--bump", "patch")
            assert clone.state() == world.whole.state(), name
        finished += 1
    print(f"{number.name}: {hits} moments, {finished} releases finished, each like the one that nothing disturbed")
