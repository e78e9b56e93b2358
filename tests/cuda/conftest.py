"""The targets cuda, built for one architecture unless CUDA_ARCHITECTURES says otherwise, and their files in a folder.

``SHIPYARD_TEST_IMAGES`` names images that are there already, as for tests/images: ``{"api-cuda": "sha256:..."}``;
CUDA_ARCHITECTURES then says what they are for. Nothing here needs a GPU: what a GPU alone can show, bench/gpu.py asks.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker
import shipyard
from shipyard import elf
from shipyard.elf import Elf
from shipyard.engine import Engine
from shipyard.models import BuildResult, Project
from tests.support.images import CUDA, unpacked
from tests.support.stack import ROOT

#: Of one GPU generation: the shortest build.
ARCHITECTURES = os.environ.get("CUDA_ARCHITECTURES") or "90"
IMAGES = ("api", "claude-proxy")
PLATFORM = "linux/amd64"


class Root:
    """An unpacked image: where it lies, the paths of its files, and what those that are ELF files say of themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = [each for each in folder.rglob("*") if each.is_symlink() or each.is_file()]
        self.names = sorted(each.relative_to(folder).as_posix() for each in found)
        self.files = [each for each in self.names if not (folder / each).is_symlink()]
        self.elfs = {name: read for name in self.files if (read := self._elf(folder / name))}

    @staticmethod
    def _elf(path: Path) -> Elf | None:
        with path.open("rb") as file:
            if file.read(4) != elf.MAGIC:
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return elf.read(data)


@pytest.fixture(scope="session")
def project() -> Project:
    found: Project = shipyard.config.load(ROOT)
    return found


@pytest.fixture(scope="session")
def engine() -> Engine:
    # Without an engine this raises, so the tests fail: a skipped proof would look like a passed one.
    found: Engine = shipyard.engine.find()
    return found


@pytest.fixture(scope="session")
def built(project: Project, engine: Engine) -> dict[str, BuildResult]:
    given = json.loads(os.environ.get("SHIPYARD_TEST_IMAGES") or "{}")
    there = {name: _given(engine, name, given[f"{name}-{CUDA}"]) for name in IMAGES if f"{name}-{CUDA}" in given}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_ARCHITECTURES", ARCHITECTURES)
        request = shipyard.images.Request(images=tuple(name for name in IMAGES if name not in there), target=CUDA)
        made = shipyard.images.build(project, engine, request) if request.images else []
    return there | {result.name: result for result in made}


def _given(engine: Engine, name: str, reference: str) -> BuildResult:
    digest = shipyard.images.digest(engine, reference)
    assert digest, f"SHIPYARD_TEST_IMAGES: the engine has no {reference}"
    size = shipyard.sizes.measure(engine, reference, digest, PLATFORM).total
    return BuildResult(name, CUDA, PLATFORM, reference, digest, size, "given", "SHIPYARD_TEST_IMAGES", 0.0)


@pytest.fixture(scope="session")
def prod(project: Project, engine: Engine) -> dict[str, BuildResult]:
    """What they stand on."""
    results = shipyard.images.build(project, engine, shipyard.images.Request(images=IMAGES))
    return {result.name: result for result in results}


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    found = docker.DockerClient(base_url=engine.host, timeout=300)
    yield found
    found.close()


@pytest.fixture(scope="session", params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def roots(
    client: docker.DockerClient, built: dict[str, BuildResult], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Root]:
    folder = tmp_path_factory.mktemp("roots")
    return {
        name: Root(unpacked(client, result.reference, result.platform, folder / name)) for name, result in built.items()
    }
