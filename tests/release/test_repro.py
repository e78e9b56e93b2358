"""A rebuild of the same commit: the same digests, or the layer, the path and the kind of what is different."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shipyard
from shipyard import release_build, repro, source
from shipyard.engine import Engine
from shipyard.repro import Difference
from tests.support.small_release import DOCKERFILE, SmallRelease
from tests.support.stack import ROOT, copy_tree

#: A file of random content, one of a random name, and files that come from the context as they are.
CARELESS = """\
FROM --platform=$BUILDPLATFORM debian:trixie-slim AS builder
ARG TARGETARCH
RUN mkdir -p /layer/etc && head -c 16 /dev/urandom >/layer/etc/random && \\
    cp /proc/sys/kernel/random/uuid "/layer/$(cat /proc/sys/kernel/random/uuid)" && \\
    chmod 644 /layer/etc/random /layer/*-* && find /layer -exec touch --date=@315532800 {} +
FROM scratch AS debug
FROM scratch AS prod
COPY --link --from=builder /layer /
COPY config /config
"""


@pytest.fixture
def engine() -> Engine:
    return shipyard.engine.find()


def test_careful_images_are_the_same_wherever_they_are_built(tmp_path: Path, engine: Engine) -> None:
    small = SmallRelease(tmp_path / "small")
    (small.root / "config/settings.toml").write_text("not committed\n")
    artifacts, differences = repro.twice(small.project, engine)
    assert differences == []
    assert [each.key for each in artifacts] == ["one-prod", "two-prod"]


def test_a_careless_image_is_named_with_layer_path_and_kind(tmp_path: Path, engine: Engine) -> None:
    small = SmallRelease(tmp_path / "small")
    small.write("two", CARELESS)
    commit = small.commit()
    artifacts = release_build.build(small.project, engine, commit, tmp_path / "out")
    assert repro.check(small.project, engine, commit, artifacts, ["one"]) == []
    differences = repro.check(small.project, engine, commit, artifacts)

    assert {(each.image, each.platform) for each in differences} == {
        ("two-prod", "linux/amd64"),
        ("two-prod", "linux/arm64"),
    }
    one = [each for each in differences if each.platform == "linux/arm64"]
    first, second = "layer 1 (COPY /layer /)", "layer 2 (COPY config /config)"
    assert Difference("two-prod", "linux/arm64", first, "/etc/random", "content") in one
    assert sorted(each.kind for each in one if each.layer == first and each.path != "/etc/random") == [
        "added",
        "missing",
    ]
    found = {(each.path, each.kind) for each in one if each.layer == second}
    assert {("/config/settings.toml", "mode"), ("/config/settings.toml", "time")} <= found
    message = str(repro.failed(differences))
    assert f"two-prod linux/amd64, {first}: /etc/random: content" in message
    assert repro.failed(differences).exit_code == 21


def test_the_verb(tmp_path: Path) -> None:
    """`invoke repro` in a clone that has never been released; it ends with 21 when an image is careless."""
    root = tmp_path / "checkout"
    copy_tree(ROOT, root)
    small = SmallRelease(tmp_path / "small", ("one",))
    (root / "docker/images.toml").write_text((small.root / "docker/images.toml").read_text())
    (root / "docker/one").mkdir()
    (root / "docker/one/Dockerfile").write_text(DOCKERFILE.replace("source=config", "source=config/monitoring"))
    (root / ".dockerignore").unlink()
    small.root = root
    small.git("init", "--quiet", "--initial-branch=main")
    small.commit()
    done = invoke(root, "repro", "--json")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in json.loads(done.stdout)["one-prod"]] == ["linux/amd64", "linux/arm64"]

    small.write("one", CARELESS)
    small.commit()
    done = invoke(root, "repro", "--image", "one")
    assert done.returncode == 21, done.stderr
    assert "/etc/random: content" in done.stderr
    assert source.commit(root).clean


def invoke(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "invoke", "--search-root", str(root), *words]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(argv, cwd=root, env=environment, check=False, capture_output=True, text=True, timeout=300)
