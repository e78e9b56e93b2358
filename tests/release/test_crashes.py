"""Releases that are killed, whose registry goes away, that run twice at once: the same command goes on, the end is the same."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shipyard import lease, world
from tests.support import registries
from tests.support.clones import Clone, Watcher, kill
from tests.support.service import wait_until

#: Every line after which a release can be killed: before and after each step. `bump` has work to do here.
BOUNDARIES = [(step, state) for step in world.TITLES for state in ("begun", "done")]
WORDS = ("--bump", "patch")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A release that nothing disturbed, and what the others are compared with."""
    folder = tmp_path_factory.mktemp("whole")
    with registries.running(folder / "registry") as registry:
        clone = Clone(folder / "clone", registry.address)
        clone.git("branch", "before")
        clone.release(*WORDS)
        yield clone


@pytest.fixture
def clone(whole: Clone, tmp_path: Path, registry: registries.Served) -> Iterator[Clone]:
    """The same commit of the bump with the same key, nothing released: so the digests are the same too."""
    found = whole.twin(tmp_path / "clone", registry.address)
    found.git("tag", "--delete", "v1.2.4")
    with Watcher(registry.address) as watcher:
        yield found
    assert watcher.unsigned == []
    assert "latest" in watcher.seen


def test_killed_at_every_boundary(whole: Clone, clone: Clone) -> None:
    for step, state in BOUNDARIES:
        if (step, state) == ("bump", "begun") or (step, state) == ("bump", "done"):
            continue  # the commit is there already, so that it is the same one: see test_killed_while_bumping
        clone.killed_when(step, state, *WORDS)
    clone.release(*WORDS)
    assert clone.state() == whole.state()
    # What was there was neither built nor tested again.
    assert (len(clone.lines("build", "done")), len(clone.lines("test", "done"))) == (1, 1)


def test_killed_at_ten_random_moments(whole: Clone, clone: Clone) -> None:
    seconds = sum(step["seconds"] for step in whole.document()["steps"])
    dice = random.Random(5)
    for _ in range(10):
        process = clone.start("release", *WORDS, stdout=subprocess.DEVNULL)
        try:
            process.wait(1.0 + dice.uniform(0, seconds / 3))
        except subprocess.TimeoutExpired:
            kill(process)
    clone.release(*WORDS)
    assert clone.state() == whole.state()


@pytest.mark.parametrize("line", ["begun", "done"])
def test_killed_while_bumping(tmp_path: Path, registry: registries.Served, line: str) -> None:
    clone = Clone(tmp_path / "clone", registry.address)
    before = clone.git("rev-parse", "HEAD")
    clone.killed_when("bump", line, *WORDS)
    clone.invoke("push", *WORDS, "--skip-repro", "not the point here")
    assert (clone.version, clone.git("rev-parse", "HEAD^")) == ("1.2.4", before)
    assert clone.git("status", "--porcelain") == ""


def test_killed_between_two_trees(tmp_path: Path, registry: registries.Served) -> None:
    """Git itself was killed while it changed the files: some are new, some are old, HEAD is old."""
    clone = Clone(tmp_path / "clone", registry.address)
    clone.killed_when("bump", "done", *WORDS)
    bump = clone.git("rev-parse", "HEAD")
    clone.git("reset", "--quiet", "--hard", "HEAD^")
    path = clone.journal("1.2.4").path
    path.write_text(
        "".join(line for line in path.read_text().splitlines(True) if '"state":"done","step":"bump"' not in line)
    )
    clone.git("checkout", bump, "--", "VERSION")
    (clone.root / "changes/first.feature.md").unlink()
    assert clone.git("status", "--porcelain")
    clone.invoke("push", *WORDS, "--skip-repro", "not the point here")
    assert clone.git("rev-parse", "HEAD") == bump
    assert clone.git("status", "--porcelain") == ""


@pytest.mark.parametrize("step", ["push", "sign", "attest", "promote"])
def test_the_registry_is_restarted(whole: Clone, clone: Clone, registry: registries.Served, step: str) -> None:
    def restart() -> None:
        wait_until(lambda: clone.lines(step, "begun"), f"{step} begun", 120)
        registry.restart()

    other = threading.Thread(target=restart)
    other.start()
    clone.release(*WORDS)
    other.join()
    assert clone.state() == whole.state()
    assert not clone.lines(step, "failed")


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[None]:
    """A file system of its own at a folder, which keeps what it had."""
    kept = folder.with_name("kept")
    subprocess.run(["cp", "-a", f"{folder}/.", kept], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", folder], check=True)
    subprocess.run(["cp", "-a", f"{kept}/.", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a file system up to ``left`` bytes; the file to remove for more room."""
    found = folder / "filling"
    usage = os.statvfs(folder)
    found.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - left)))
    return found


@pytest.mark.parametrize("step", ["build", "attest", "promote"])
def test_the_disk_is_full(whole: Clone, clone: Clone, step: str) -> None:
    folder = clone.root / ("dist" if step == "promote" else ".shipyard/release")
    if step != "build":
        clone.killed_when(step, "begun", *WORDS)
    folder.mkdir(parents=True, exist_ok=True)
    with small_disk(folder):
        filling = fill(folder, 4 << 10)
        said = clone.release(*WORDS, status=11)
        assert "no space left" in said.lower()
        assert "Traceback" not in said
        assert "latest" not in clone.public() or step == "promote"
        filling.unlink()
        clone.release(*WORDS)
        assert clone.state() == whole.state()


def test_the_registry_s_disk_is_full(whole: Clone, clone: Clone, registry: registries.Served) -> None:
    registry.storage.mkdir(exist_ok=True)
    with small_disk(registry.storage):
        filling = fill(registry.storage, 64 << 10)
        said = clone.release(*WORDS, status=15)
        assert "status 500 UNKNOWN unknown error (No space left on device); make room there" in said
        assert "Traceback" not in said
        assert clone.public() == {}
        filling.unlink()
        clone.release(*WORDS)
        assert clone.state() == whole.state()
        registry.kill()


def test_two_at_once(whole: Clone, clone: Clone) -> None:
    first = clone.start("release", *WORDS)
    wait_until(lambda: clone.lines("build", "begun"), "the first one", 60)
    said = clone.release(*WORDS, status=20)
    owner = lease.read(clone.root / ".shipyard/release/lease.json")
    assert owner is not None
    assert owner.pid == first.pid
    assert f"invoke release, pid {first.pid} of " in said
    output, _ = first.communicate(timeout=180)
    assert first.returncode == 0, output
    assert clone.state() == whole.state()


def test_a_lease_that_is_lost_ends_the_release_before_it_writes(clone: Clone, registry: registries.Served) -> None:
    process = clone.start("release", *WORDS)
    wait_until(lambda: clone.lines("test", "begun"), "the test", 60)
    (clone.root / ".shipyard/release/lease.json").unlink()
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 20, said
    assert "its file is gone" in said
    assert clone.public() == {}
    clone.release(*WORDS)


def test_ctrl_c_says_how_to_go_on(clone: Clone) -> None:
    process = clone.start("release", *WORDS)
    wait_until(lambda: clone.lines("build", "begun"), "the build", 60)
    process.send_signal(2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on from here" in said
    assert not (clone.root / ".shipyard/release/lease.json").exists()
    clone.release(*WORDS)
