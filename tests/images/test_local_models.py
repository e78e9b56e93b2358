"""llama-server of the images that have one: found on PATH, at work without a GPU, without a writable file and as its own user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import docker
from shipyard.models import BuildResult, Project
from tests.support.image_models import chat, serving
from tests.support.images import await_health, listed, unpacked

Built = dict[tuple[str, str], BuildResult]
#: What the API's supervisor starts, with a port of ours.
COMMAND = ["llama-server", "--model", "/models/tiny.gguf", "--host", "0.0.0.0", "--port", "9000", "--ctx-size", "512"]
#: Ollama's, which this image stands in for.
PORT = 11434


@pytest.fixture(scope="module")
def server(
    client: docker.DockerClient, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, str]]:
    with serving(client, built["local-llm", "prod"].reference, tmp_path_factory.mktemp("models"), PORT) as found:
        yield found


def test_the_api_s_own_llama_server_answers(client: docker.DockerClient, built: Built, tmp_path: Path) -> None:
    options = {"command": COMMAND, "network_mode": "bridge"}
    with serving(client, built["api", "local"].reference, tmp_path, 9000, **options) as (_, address):
        answer = chat(address)
    assert answer["usage"]["completion_tokens"] == 4


def test_the_backend_is_one_for_this_processor(client: docker.DockerClient, built: Built) -> None:
    """Debian's build for every level of the architecture: the best one is loaded, none is missing a library."""
    said = client.containers.run(
        built["api", "local"].reference, ["llama-server", "--list-devices"], remove=True, read_only=True, stderr=True
    ).decode()
    assert "Available devices" in said
    assert "failed to load" not in said


def test_local_is_prod_and_llama_cpp(client: docker.DockerClient, built: Built) -> None:
    layers = {
        target: client.api.inspect_image(built["api", target].reference)["RootFS"]["Layers"]
        for target in ("prod", "local")
    }
    assert layers["local"][: len(layers["prod"])] == layers["prod"]
    assert len(layers["local"]) == len(layers["prod"]) + 1


def test_the_bill_of_materials_of_local_names_both_suites(
    client: docker.DockerClient, built: Built, project: Project, tmp_path: Path
) -> None:
    result = built["api", "local"]
    architecture = result.platform.rpartition("/")[2]
    found = listed(unpacked(client, result.reference, result.platform, tmp_path), architecture)
    locked = [line.split() for line in (project.root / "docker/local-llm/debian.lock").read_text().splitlines()]
    llama = {f"{name} {version}" for arch, name, version, _ in locked if arch == architecture and "llama" in name}
    assert len(llama) == 2
    assert llama <= set(found)
    assert sum(each.startswith("libc6 ") for each in found) == 2, "trixie's for Python, testing's for llama.cpp"
    assert all("NOASSERTION" not in found[each] for each in llama)


def test_local_llm_lists_and_loads_the_models_of_its_folder(server: tuple[Any, str]) -> None:
    _, address = server
    assert chat(address)["model"] == "tiny"


def test_local_llm_is_healthy_by_its_own_check(server: tuple[Any, str]) -> None:
    container, _ = server
    await_health(container)
