"""Locked Debian packages with the real mirror: refreshed, gone, exchanged, and kept after the mirror dropped them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shipyard
from shipyard import bases, debian_locks, host, release_build, source
from shipyard.commands import bake
from shipyard.engine import Engine
from shipyard.errors import BuildFailed, LockStale
from shipyard.models import Project
from tests.support.small_release import SmallRelease
from tests.support.stack import ROOT, copy_tree

LOCK = "docker/one/debian.lock"
PROBE = "shipyard-lock-probe"
#: Puts a package that no mirror has among those that were fetched before, and says its SHA-256; or takes it away again.
KEEP = f"""\
FROM debian:trixie-slim AS builder
COPY VERSION /now
ARG SOURCE_DATE_EPOCH
RUN --mount=type=cache,target=/var/cache/unpack-debs,sharing=locked \\
    mkdir -p /probe/DEBIAN /probe/usr/share/doc/probe /var/cache/unpack-debs/amd64/archives && \\
    printf 'Package: {PROBE}\\nVersion: 1:2.0\\nArchitecture: all\\nMaintainer: none\\nDescription: none\\n' \\
        >/probe/DEBIAN/control && echo kept >/probe/usr/share/doc/probe/copyright && \\
    dpkg-deb --root-owner-group --build /probe "/var/cache/unpack-debs/amd64/archives/{PROBE}_1%3a2.0_all.deb" && \\
    sha256sum /var/cache/unpack-debs/amd64/archives/{PROBE}_* | cut -d ' ' -f 1 >/sum
FROM scratch AS {bake.LOCK_STAGE}
COPY --from=builder /sum /
"""
FORGET = f"""\
FROM debian:trixie-slim AS builder
COPY VERSION /now
RUN --mount=type=cache,target=/var/cache/unpack-debs,sharing=locked rm -f /var/cache/unpack-debs/amd64/archives/{PROBE}_*
FROM scratch AS {bake.LOCK_STAGE}
COPY --from=builder /etc/os-release /
"""
#: An image of one small package; what the package needs counts as installed.
TAKE = f"""\
FROM --platform=$BUILDPLATFORM debian:trixie-slim AS builder
COPY docker/builder /usr/local/bin/
FROM builder AS rootfs
ARG TARGETARCH
ARG DEBIAN_LOCK=prefer
RUN --mount=type=cache,target=/var/cache/unpack-debs,sharing=locked \\
    --mount=type=bind,source={LOCK},target=/locks/debian.lock \\
    unpack-debs "$TARGETARCH" /rootfs NAME libc6 && seal /rootfs
FROM scratch AS {bake.LOCK_STAGE}
COPY --from=rootfs /debian-lock /
FROM scratch AS prod
COPY --link --from=rootfs /rootfs /
"""


class Tree(SmallRelease):
    """A copy of this tree with one small image in place of all others, locked anew."""

    def __init__(self, root: Path) -> None:
        copy_tree(ROOT, root)
        for path in ("config", "docker"):
            (root / path).rename(root / f"{path}.before")
        (root / ".dockerignore").unlink()
        super().__init__(root, ("one",))
        (root / "docker.before/builder").rename(root / "docker/builder")
        images = root / "docker/images.toml"
        images.write_text(images.read_text().replace('"debug", ', "").replace('"1MB"', '"9MB"'))
        self.write("one", TAKE.replace("NAME", "busybox-static"))
        self.commit()

    def lock(self, text: str) -> None:
        """Another lock, committed."""
        (self.root / LOCK).write_text(text)
        self.commit()

    def build(self, engine: Engine, out: Path, **options: bool) -> str:
        """The digest of a release of what is committed."""
        (artifact,) = release_build.build(self.project, engine, source.commit(self.root), out, **options)  # type: ignore[arg-type]
        return artifact.digest


@pytest.fixture
def engine() -> Engine:
    return shipyard.engine.find()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


@pytest.fixture
def current(tree: Tree, engine: Engine) -> str:
    """The lock as it is refreshed today, committed."""
    changes = debian_locks.refresh(tree.project, engine)
    assert [str(each) for each in changes[LOCK]] == [
        f"busybox-static {changes[LOCK][0].after}, new (amd64, arm64)",
    ]
    tree.commit()
    return (tree.root / LOCK).read_text()


def test_a_version_that_is_gone_ends_a_release_and_only_warns_in_a_build(
    tree: Tree, current: str, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = current.splitlines()
    assert (first.split()[:2], second.split()[:2]) == (["amd64", "busybox-static"], ["arm64", "busybox-static"])
    now = first.split()[2]
    digest = tree.build(engine, tmp_path / "out")
    tree.lock("".join(f"{arch} busybox-static 1:1.0-1 {'0' * 64}\n" for arch in ("amd64", "arm64")))
    with pytest.raises(LockStale) as refused:
        tree.build(engine, tmp_path / "refused")
    assert str(refused.value).splitlines()[:2] == [
        f"{LOCK}: busybox-static 1:1.0-1 for {arch} can no longer be had; there is {line.split()[2]} now"
        for arch, line in (("amd64", first), ("arm64", second))
    ]
    assert not (tmp_path / "refused/one-prod").exists()

    capsys.readouterr()
    try:
        (built,) = shipyard.images.build(tree.project, engine, shipyard.images.Request(images=("one",)))
        assert built.status == "built"
        said = capsys.readouterr().err
        assert f"warning: {LOCK}: busybox-static 1:1.0-1 for amd64 can no longer be had; there is {now} now" in said
        assert "goes on with the versions of today" in said
    finally:
        subprocess.run([engine.docker, "image", "rm", "small-one:1.2.3"], env=engine.environment(), check=True)

    done = invoke(tree.root, "lock", "--image", "one", "--json")
    assert done.returncode == 0, done.stderr
    (changed, *_) = json.loads(done.stdout)[LOCK]
    assert changed.startswith(f"busybox-static 1:1.0-1 -> {now} (amd64")
    assert (tree.root / LOCK).read_text() == current
    tree.git("reset", "--quiet", "--hard", "HEAD~1")
    assert tree.build(engine, tmp_path / "again", no_cache=True) == digest


def test_another_package_of_the_same_version_is_refused_by_any_build(
    tree: Tree, current: str, engine: Engine, tmp_path: Path
) -> None:
    tree.lock(re.sub(r"[0-9a-f]{64}", "1" * 64, current))
    with pytest.raises(BuildFailed, match="are not those of the lock") as failed:
        tree.build(engine, tmp_path / "out")
    assert "busybox-static" in str(failed.value)
    with pytest.raises(BuildFailed, match="are not those of the lock"):
        shipyard.images.build(tree.project, engine, shipyard.images.Request(images=("one",)))


def test_a_package_that_is_not_locked_is_refused_by_a_release(tree: Tree, engine: Engine, tmp_path: Path) -> None:
    tree.lock("")
    with pytest.raises(LockStale, match=rf"{LOCK}: busybox-static for arm64 is needed, and not in the lock; there is "):
        tree.build(engine, tmp_path / "out")


def test_a_refresh_of_an_unknown_image_changes_nothing(tree: Tree) -> None:
    done = invoke(tree.root, "lock", "--image", "nothing")
    assert (done.returncode, "not declared" in done.stderr) == (4, True)
    assert not (tree.root / LOCK).exists()


def test_what_was_fetched_before_is_enough_after_the_mirror_dropped_it(
    tree: Tree, tmp_path: Path, engine: Engine
) -> None:
    images = tree.root / "docker/images.toml"
    images.write_text(images.read_text().replace(', "linux/arm64"', ""))
    (tree.root / "VERSION").write_text(f"1.2.{time.time_ns()}\n")  # so that no step is taken from the cache
    tree.write("one", KEEP)
    try:
        digest = (run(tree.project, engine, tmp_path / "sum") / "sum").read_text().strip()
        tree.write("one", TAKE.replace("NAME", PROBE))
        tree.lock(f"amd64 {PROBE} 1:2.0 {'2' * 64}\n")
        with pytest.raises(LockStale, match=rf"{PROBE} 1:2\.0 for amd64 can no longer be had; there is none"):
            tree.build(engine, tmp_path / "out")
        tree.lock(f"amd64 {PROBE} 1:2.0 {digest}\n")
        assert tree.build(engine, tmp_path / "out", no_cache=True).startswith("sha256:")
    finally:
        tree.write("one", FORGET)
        run(tree.project, engine, tmp_path / "forgotten")


def run(project: Project, engine: Engine, folder: Path) -> Path:
    """Build the image's lock stage; the folder with what it holds."""
    base = bases.ensure(engine, project.base)
    secrets = {"ca": bundle} if (bundle := host.ca_bundle()) else {}
    document = bake.locks_document(
        project, project.images.values(), base, folder, epoch=1767225600, secrets=secrets, debian_lock="strict"
    )
    environment = bake.environment(engine.environment())
    argv = bake.argv(engine.docker)
    subprocess.run(
        argv,
        cwd=project.root,
        env=environment,
        input=document,
        text=True,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    (found,) = (folder / "one").iterdir()
    return found


def invoke(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "invoke", "--search-root", str(root), *words]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(argv, cwd=root, env=environment, check=False, capture_output=True, text=True, timeout=300)
