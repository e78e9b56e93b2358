"""What holds for every image and target."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard.models import LABEL_FILES, LABEL_INPUTS, BuildResult, Project
from tests.support.images import CUDA, given_cuda, members

NUMBERS = {
    "api": 10001,
    "redis": 10002,
    "egress": 10003,
    "claude-proxy": 10004,
    "balancer": 10005,
    "prometheus": 10006,
    "redis-exporter": 10007,
    "local-llm": 10008,
}
USERS = {name: f"{number}:{number}" for name, number in NUMBERS.items()}
EVERY = [
    (name, target)
    for name, targets in {
        "api": ("prod", "debug", "dev", "local"),
        "claude-proxy": ("prod", "debug", "dev"),
        "redis": ("prod", "debug"),
        "egress": ("prod", "debug"),
        "balancer": ("prod", "debug"),
        "prometheus": ("prod", "debug"),
        "redis-exporter": ("prod", "debug"),
        "local-llm": ("prod", "debug"),
    }.items()
    for target in targets
]
EVERY += [(name, CUDA) for name in given_cuda()]
Built = dict[tuple[str, str], BuildResult]
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "busybox"}
PACKAGE_MANAGERS = {"apt", "apt-get", "dpkg", "dpkg-deb", "pip", "pip3", "uv", "npm", "node", "npx"}
COMPILERS = {"gcc", "cc", "g++", "clang", "ld", "as", "make", "perl"}
ABSENT = {
    "api": SHELLS | PACKAGE_MANAGERS | COMPILERS,
    "redis": SHELLS | PACKAGE_MANAGERS | COMPILERS | {"python3"},
    "egress": SHELLS | PACKAGE_MANAGERS | COMPILERS | {"python3"},
    "balancer": SHELLS | PACKAGE_MANAGERS | COMPILERS | {"python3"},
    "prometheus": SHELLS | PACKAGE_MANAGERS | COMPILERS | {"python3"},
    "redis-exporter": SHELLS | PACKAGE_MANAGERS | COMPILERS | {"python3"},
    "local-llm": SHELLS | PACKAGE_MANAGERS | COMPILERS | {"python3"},
    "claude-proxy": PACKAGE_MANAGERS | COMPILERS,  # the CLI's tools need its shell and git
}


def inspect(client: docker.DockerClient, built: Built, image: tuple[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = client.api.inspect_image(built[image].reference)
    return found


def test_the_list_of_images_is_the_one_that_is_tested(project: Project) -> None:
    assert [
        (image.name, target)
        for image in project.images.values()
        for target in sorted(image.targets, key=_order)
        if target != CUDA
    ] == [each for each in EVERY if each[1] != CUDA]


def _order(target: str) -> int:
    return ("prod", "debug", "dev", "local", CUDA).index(target)


@pytest.mark.parametrize("image", EVERY, ids="-".join)
def test_runs_as_a_user_of_its_own(client: docker.DockerClient, built: Built, image: tuple[str, str]) -> None:
    assert inspect(client, built, image)["Config"]["User"] == USERS[image[0]]


@pytest.mark.parametrize("image", EVERY, ids="-".join)
def test_labels(client: docker.DockerClient, built: Built, project: Project, image: tuple[str, str]) -> None:
    found = inspect(client, built, image)
    labels = found["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[prefix + "version"] == project.version
    assert labels[prefix + "source"] == project.source
    assert labels[prefix + "title"] == project.images[image[0]].title
    assert labels[prefix + "licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels[prefix + "revision"])
    assert labels[prefix + "created"] == found["Created"].replace(".000000000", "")
    assert re.fullmatch(r"[0-9a-f]{64}", labels[LABEL_INPUTS])
    assert project.images[image[0]].dockerfile in json.loads(labels[LABEL_FILES])


@pytest.mark.parametrize("image", EVERY, ids="-".join)
def test_healthcheck_uses_a_program_that_the_image_has(
    client: docker.DockerClient, built: Built, image: tuple[str, str]
) -> None:
    found = inspect(client, built, image)
    kind, program, *_ = found["Config"]["Healthcheck"]["Test"]
    names = {Path(member.name).name for member, _ in members(client, built[image].reference, built[image].platform)}
    assert (kind, program in names) == ("CMD", True)


@pytest.mark.parametrize("name", ABSENT)
def test_production_lacks_what_an_attacker_would_use(client: docker.DockerClient, built: Built, name: str) -> None:
    result = built[name, "prod"]
    programs = {
        Path(member.name).name
        for member, _ in members(client, result.reference, result.platform)
        if not member.isdir() and "bin" in Path(member.name).parts
    }
    assert programs & ABSENT[name] == set()


@pytest.mark.parametrize("image", [each for each in EVERY if each[1] not in ("debug", "dev")], ids="-".join)
def test_what_is_released_is_within_its_budget(built: Built, project: Project, image: tuple[str, str]) -> None:
    assert 0 < built[image].size <= project.images[image[0]].budget[image[1]]


@pytest.mark.parametrize("image", EVERY, ids="-".join)
def test_no_secret_in_history_or_configuration(
    client: docker.DockerClient, built: Built, image: tuple[str, str]
) -> None:
    told = json.dumps([client.api.history(built[image].reference), inspect(client, built, image)["Config"]["Env"]])
    assert not re.search(r"BEGIN [A-Z ]*(CERTIFICATE|KEY)|sk-[a-z]|password=|token=|_KEY=", told, re.IGNORECASE)


@pytest.mark.parametrize("image", EVERY, ids="-".join)
def test_nothing_is_setuid_or_writable_by_everyone(
    client: docker.DockerClient, built: Built, image: tuple[str, str]
) -> None:
    risky = [
        member.name
        for member, _ in members(client, built[image].reference, built[image].platform)
        if (member.isfile() and member.mode & 0o6002) or (member.isdir() and member.mode & 0o1002 == 0o0002)
    ]
    assert risky == []


@pytest.mark.native("it is about a build for both platforms, not about the images that are given")
def test_a_foreign_platform_is_built_without_running_it(
    client: docker.DockerClient, project: Project, engine: Any
) -> None:
    """Both platforms in one request; every program of the foreign one is of its architecture."""
    request = shipyard.images.Request(images=("api",), platform="linux/amd64,linux/arm64")
    (result,) = shipyard.images.build(project, engine, request)
    machines = {"linux/amd64": 0x3E, "linux/arm64": 0xB7}  # ELF e_machine: EM_X86_64, EM_AARCH64
    for platform, machine in machines.items():
        heads = [head for _, head in members(client, result.reference, platform) if head.startswith(b"\x7fELF")]
        assert len(heads) > 20
        assert {int.from_bytes(head[18:20], "little") for head in heads} == {machine}


def test_unchanged_inputs_are_skipped_without_a_builder(project: Project, engine: Any, built: Built) -> None:
    again = shipyard.images.build(project, engine, shipyard.images.Request(target="debug"))
    assert [(each.status, each.digest) for each in again] == [
        ("skipped", built[each.name, "debug"].digest) for each in again
    ]
