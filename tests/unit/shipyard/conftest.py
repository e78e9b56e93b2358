"""A small checkout, its project, and an environment in which nothing of the real machine shows through."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shipyard.engine import Engine
from shipyard.models import BaseImage, Image, Job, Project

IMAGES_TOML = """\
source   = "https://example.org/gateway"
licenses = "Apache-2.0"

[base]
image = "debian:trixie-slim"
suite = "trixie"

[image.api]
title      = "The API"
repository = "llm-call-api"
context    = "."
dockerfile = "docker/api/Dockerfile"
targets    = ["dev", "prod", "debug"]
platforms  = ["linux/amd64", "linux/arm64"]
budget     = { prod = "90MB", debug = "1.2 GB" }

[image.redis]
title      = "The cache"
repository = "llm-call-redis"
context    = "."
dockerfile = "docker/redis/Dockerfile"
targets    = ["prod"]
platforms  = ["linux/amd64"]
"""

FILES = {
    "VERSION": "1.2.3\n",
    "docker/images.toml": IMAGES_TOML,
    "docker/api/Dockerfile": "FROM debian:trixie-slim AS prod\nCOPY src /app\nCOPY start.sh /app/\n",
    "docker/redis/Dockerfile": "FROM debian:trixie-slim AS prod\nCOPY redis.conf /etc/\n",
    "src/app.py": "print('hello')\n",
    "start.sh": "#!/bin/sh\n",
    "redis.conf": "port 6379\n",
    "README.md": "not part of any image\n",
}


def fill(root: Path) -> Path:
    """The same small checkout at any place."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "start.sh").chmod(0o755)
    return root


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("DOCKER_", "SHIPYARD_", "XDG_", "SOURCE_DATE_EPOCH", "SSL_CERT_")) or "_CA_BUNDLE" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHIPYARD_HOME", str(tmp_path / "machine"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return fill(tmp_path / "checkout")


@pytest.fixture
def make_checkout() -> Callable[[Path], Path]:
    return fill


@pytest.fixture
def project(checkout: Path) -> Project:
    """What ``docker/images.toml`` and ``VERSION`` of the small checkout say."""
    return Project(
        root=checkout,
        version="1.2.3",
        source="https://example.org/gateway",
        licenses="Apache-2.0",
        base=BaseImage("debian:trixie-slim", "trixie"),
        images={
            "api": Image(
                name="api",
                repository="llm-call-api",
                context=".",
                dockerfile="docker/api/Dockerfile",
                title="The API",
                targets=("dev", "prod", "debug"),
                platforms=("linux/amd64", "linux/arm64"),
                budget={"prod": 90_000_000, "debug": 1_200_000_000},
            ),
            "redis": Image(
                name="redis",
                repository="llm-call-redis",
                context=".",
                dockerfile="docker/redis/Dockerfile",
                title="The cache",
                targets=("prod",),
                platforms=("linux/amd64",),
                budget={},
            ),
        },
    )


@pytest.fixture
def engine() -> Engine:
    return Engine("unix:///engine.sock", "/usr/bin/docker", "host")


@pytest.fixture
def job(project: Project) -> Job:
    """The API's prod image with two files and a known hash."""
    return Job(
        image=project.images["api"],
        target="prod",
        platforms=("linux/amd64",),
        reference="llm-call-api:1.2.3",
        files={"docker/api/Dockerfile": "1" * 16, "src/app.py": "2" * 16},
        inputs="f" * 64,
    )
