"""All images of all targets, built (or found up to date) once, and a client of the engine that holds them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import docker
import shipyard
from shipyard.models import BuildResult, Project
from tests.support.stack import ROOT

#: What the tests look at; each target is one bake request over the images that have it.
TARGETS = ("prod", "debug", "dev")


@pytest.fixture(scope="session")
def project() -> Project:
    found: Project = shipyard.config.load(ROOT)
    return found


@pytest.fixture(scope="session")
def engine() -> object:
    # Without an engine this raises, so the tests fail: a skipped proof would look like a passed one.
    return shipyard.engine.find()


@pytest.fixture(scope="session")
def built(project: Project, engine: object) -> dict[tuple[str, str], BuildResult]:
    results = [
        result
        for target in TARGETS
        for result in shipyard.images.build(project, engine, shipyard.images.Request(target=target))
    ]
    return {(result.name, result.target): result for result in results}


@pytest.fixture(scope="session")
def client(engine: object) -> Iterator[docker.DockerClient]:
    found = docker.DockerClient(base_url=engine.host, timeout=120)  # type: ignore[attr-defined]
    yield found
    found.close()
