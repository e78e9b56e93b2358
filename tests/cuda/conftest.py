"""The targets cuda, built for one architecture unless CUDA_ARCHITECTURES says otherwise, and their files in a folder.

Nothing here needs a GPU. What a GPU alone can show is asked by bench/gpu.py.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker
import shipyard
from shipyard import elf
from shipyard.elf import Elf
from shipyard.models import BuildResult, Project
from tests.support.images import CUDA, unpacked
from tests.support.stack import ROOT

#: Of one GPU generation: the shortest build.
ARCHITECTURES = os.environ.get("CUDA_ARCHITECTURES") or "90"
IMAGES = ("api", "claude-proxy")


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
def built(project: Project) -> dict[str, BuildResult]:
    engine = shipyard.engine.find()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_ARCHITECTURES", ARCHITECTURES)
        results = shipyard.images.build(project, engine, shipyard.images.Request(images=IMAGES, target=CUDA))
    return {result.name: result for result in results}


@pytest.fixture(scope="session")
def prod(project: Project) -> dict[str, BuildResult]:
    """What they stand on."""
    results = shipyard.images.build(project, shipyard.engine.find(), shipyard.images.Request(images=IMAGES))
    return {result.name: result for result in results}


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    found = docker.DockerClient(base_url=shipyard.engine.find().host, timeout=300)
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
