"""All images of all targets, built (or found up to date) once, and a client of the engine that holds them.

``SHIPYARD_TEST_IMAGES`` names images that are there already, such as those of a release, and that are looked at instead of
built ones, by digest: ``{"api": "sha256:..."}``, with ``api-cuda`` for a target other than prod.
``SHIPYARD_TEST_PLATFORM`` says of which platform they are; other than the engine's own, an emulator runs them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

import docker
import shipyard
from shipyard import images, oci, plans, sizes
from shipyard.engine import Engine
from shipyard.models import BuildResult, Project
from tests.support.images import CUDA, EMULATED, given_cuda
from tests.support.stack import ROOT

#: What the tests look at; each target is one bake request over the images that have it.
TARGETS = ("prod", "debug", "dev", "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where an emulator runs the images, leave out what cannot be so there; each such test says why."""
    for item in items:
        mark = item.get_closest_marker("native")
        if mark and EMULATED:
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


@pytest.fixture(scope="session")
def project() -> Project:
    found: Project = shipyard.config.load(ROOT)
    return found


@pytest.fixture(scope="session")
def engine() -> object:
    # Without an engine this raises, so the tests fail: a skipped proof would look like a passed one.
    return shipyard.engine.find()


@pytest.fixture(scope="session", autouse=True)
def _given(project: Project, engine: Engine) -> Iterator[None]:
    given = json.loads(os.environ.get("SHIPYARD_TEST_IMAGES") or "{}")
    known = {_key(image.name, target) for image in project.images.values() for target in image.targets}
    assert set(given) <= known, (
        f"SHIPYARD_TEST_IMAGES names images that docker/images.toml does not: {set(given) - known}"
    )
    # A name may lead elsewhere by the time that a test takes it.
    assert all(map(oci.is_digest, given.values())), f"SHIPYARD_TEST_IMAGES has names, not digests: {given}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "build", _instead(given, _by_digest(images.build)))
        yield


def _key(name: str, target: str) -> str:
    return name if target == "prod" else f"{name}-{target}"


Build = Callable[[Project, Engine, images.Request], list[BuildResult]]


def _by_digest(build: Build) -> Build:
    """``images.build``, whose references are digests: a name is given to other images by whoever builds the same version."""

    def chosen(project: Project, engine: Engine, request: images.Request) -> list[BuildResult]:
        return [replace(each, reference=each.digest) for each in build(project, engine, request)]

    return chosen


def _instead(given: dict[str, str], build: Build) -> Build:
    """``images.build``, which leaves the given images alone; what goes by another registry's name is built."""

    def chosen(project: Project, engine: Engine, request: images.Request) -> list[BuildResult]:
        wanted = (
            plans.named(project, request.references)
            if request.references
            else plans.select(project, request.images, request.target)
        )
        if request.registry or not any(_key(image.name, target) in given for image, target in wanted):
            return build(project, engine, request)
        found = []
        for image, target in wanted:
            reference = given.get(_key(image.name, target))
            if reference is None:
                one = replace(request, images=(image.name,), target=target, references=())
                found += build(project, engine, one)
                continue
            digest = images.digest(engine, reference)
            assert digest, f"SHIPYARD_TEST_IMAGES: the engine has no {reference}"
            platform = os.environ.get("SHIPYARD_TEST_PLATFORM") or images.native(engine)
            size = sizes.measure(engine, reference, digest, platform).total
            said = ("given", "SHIPYARD_TEST_IMAGES", 0.0)
            found.append(BuildResult(image.name, target, platform, reference, digest, size, *said))
        return found

    return chosen


@pytest.fixture(scope="session")
def built(project: Project, engine: object) -> dict[tuple[str, str], BuildResult]:
    results = [
        result
        for target in (*TARGETS, *([CUDA] if given_cuda() else []))
        for result in shipyard.images.build(project, engine, shipyard.images.Request(target=target))
    ]
    return {(result.name, result.target): result for result in results}


@pytest.fixture(scope="session")
def client(engine: object) -> Iterator[docker.DockerClient]:
    found = docker.DockerClient(base_url=engine.host, timeout=120)  # type: ignore[attr-defined]
    yield found
    found.close()
