"""The base image from a hub and without one; a registry on 127.0.0.1 stands in for the hub."""

from __future__ import annotations

import secrets
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard import machine
from shipyard.engine import packages
from shipyard.models import BuildResult, Project
from tests.support.service import wait_until
from tests.support.stack import free_ports, served

pytestmark = pytest.mark.native("it is about the base image that this machine makes, of its own platform")
CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def digest_in(address: str, repository: str, tag: str) -> str:
    """What the registry itself says that a tag names (distribution specification, "Pulling manifests")."""
    kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(f"http://{address}/v2/{repository}/manifests/{tag}", headers={"Accept": kinds})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.headers["Docker-Content-Digest"])


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """What the machine remembers of its base images is what it was before."""
    before = machine.read("base.json")
    yield
    machine.write("base.json", before)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Debian's docker-registry, the one that the toolkit unpacks; its address and its process."""
    with shipyard.engine.lock("unpacking the registry"):
        program = packages.ensure() / "docker-registry"
    (port,) = free_ports(1)
    (tmp_path / "config.yml").write_text(CONFIG.format(folder=tmp_path / "blobs", port=port))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", tmp_path / "config.yml"], stdout=log, stderr=log)
    try:
        wait_until(lambda: served(port), f"the registry: {(tmp_path / 'log').read_text()}")
        yield f"127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def test_a_hub_s_base_is_pinned_and_remembered(
    hub: tuple[str, subprocess.Popen[bytes]],
    client: docker.DockerClient,
    project: Project,
    engine: Any,
    built: dict[tuple[str, str], BuildResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, process = hub
    ours = shipyard.bases.ensure(engine, project.base)
    name = f"{address}/library/debian"
    client.images.get(ours.reference).tag(name, "trixie-slim")
    client.images.push(name, "trixie-slim")
    client.images.remove(f"{name}:trixie-slim")
    monkeypatch.setenv("SHIPYARD_BASE_IMAGE", f"{name}:trixie-slim")

    found = shipyard.bases.ensure(engine, project.base)

    digest = digest_in(address, "library/debian", "trixie-slim")
    assert (found.origin, found.reference, found.digest) == ("hub", f"{name}@{digest}", digest)
    registry = f"hub-{secrets.token_hex(4)}"  # nobody else's, who tests the same version on this engine
    request = shipyard.images.Request(images=("redis",), registry=registry)
    try:
        (result,) = shipyard.images.build(project, engine, request)
        assert result.status == "built"
        process.kill()
        process.wait()
        assert shipyard.bases.ensure(engine, project.base) == found  # nobody is asked again
        (again,) = shipyard.images.build(project, engine, request)
        assert (again.status, again.digest) == ("skipped", result.digest)
        # The same packages on top of the same base give the same bytes, wherever the base came from.
        layers = [
            client.images.get(each).attrs["RootFS"]["Layers"]
            for each in (result.reference, built["redis", "prod"].reference)
        ]
        assert layers[0] == layers[1]
    finally:
        client.images.remove(f"{registry}/llm-call-redis:{project.version}", force=True)
        client.images.remove(found.reference, force=True)


def test_a_bootstrap_is_reproducible(project: Project, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no hub answers, two bootstraps from the same packages are the same image, bit for bit."""
    # Mostly this machine bootstrapped one not long ago; where packages are newer since, it takes two.
    earlier = shipyard.bases.remembered(engine, project.base)
    (closed,) = free_ports(1)
    monkeypatch.setenv("SHIPYARD_BASE_IMAGE", f"127.0.0.1:{closed}/library/debian:trixie-slim")
    found = shipyard.bases.ensure(engine, project.base, refresh=True)
    assert found.origin == "bootstrap"
    assert earlier == found or found == shipyard.bases.ensure(engine, project.base, refresh=True)
