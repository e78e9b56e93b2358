"""A repository with one or two images that are built in seconds, for what a release does with any image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import shipyard
from shipyard import source
from shipyard.artifacts import Commit
from shipyard.models import Project

IMAGES = """
source   = "https://example.invalid/small"
licenses = "Apache-2.0"
[base]
image = "debian:trixie-slim"
suite = "trixie"
"""
IMAGE = """
[image.{name}]
title      = "{name}"
repository = "small-{name}"
context    = "."
dockerfile = "docker/{name}/Dockerfile"
targets    = ["debug", "prod"]
platforms  = ["linux/amd64", "linux/arm64"]
budget     = {{ prod = "1MB" }}
"""
DOCKERFILE = """\
FROM --platform=$BUILDPLATFORM debian:trixie-slim AS builder
ARG TARGETARCH
RUN --mount=type=bind,source=config,target=/source mkdir /layer && cp -r /source /layer/config && \\
    seq 1 2000 | sha256sum >/layer/$TARGETARCH && chmod -R go-w,a+rX /layer && \\
    find /layer -exec touch --date=@315532800 {} +
FROM scratch AS debug
COPY --link --from=builder /layer /
FROM scratch AS prod
COPY --link --from=builder /layer /
LABEL of=small
"""


class SmallRelease:
    """The repository at ``root``; every change is committed, with a time of its own."""

    def __init__(self, root: Path, names: tuple[str, ...] = ("one", "two")) -> None:
        self.root, self.names = root, names
        (root / "config").mkdir(parents=True)
        (root / "config/settings.toml").write_text("answer = 42\n")
        (root / "VERSION").write_text("1.2.3\n")
        (root / "docker").mkdir()
        (root / "docker/images.toml").write_text(IMAGES + "".join(IMAGE.format(name=name) for name in names))
        for name in names:
            (root / "docker" / name).mkdir()
            self.write(name, DOCKERFILE)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()

    def write(self, name: str, dockerfile: str) -> None:
        """Another Dockerfile for an image."""
        (self.root / f"docker/{name}/Dockerfile").write_text(dockerfile)

    def commit(self) -> Commit:
        """What is there now, as a commit of the same time each."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=what is there")
        return source.commit(self.root)

    def clone(self, root: Path) -> Path:
        """Another clone."""
        self.git("clone", "--quiet", str(self.root), str(root))
        return root

    def git(self, *words: str) -> None:
        """Git without anybody's settings."""
        person = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "test"), ("EMAIL", "test@example.invalid"), ("DATE", "2026-02-03T04:05:06Z"))
        }
        alone = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        subprocess.run(["git", *words], cwd=self.root, env={**os.environ, **person, **alone}, check=True)

    @property
    def project(self) -> Project:
        """As the toolkit reads it."""
        found: Project = shipyard.config.load(self.root)
        return found
