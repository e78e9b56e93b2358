"""docker/images.toml and VERSION: what a valid pair gives, and the full text of every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipyard import config
from shipyard.errors import ConfigError
from shipyard.models import Fault, Project


def edit(checkout: Path, *changes: tuple[str, str]) -> None:
    """Replace text in docker/images.toml; each must be there, so that no test passes by a typo."""
    path = checkout / "docker/images.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)


def faults(checkout: Path) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.load(checkout)
    found = [str(fault) for fault in raised.value.faults]
    assert str(raised.value) == "\n".join(found)
    return found


def test_a_valid_checkout_is_read_into_one_project(checkout: Path, project: Project) -> None:
    assert config.load(checkout) == project


def test_this_repository_is_valid() -> None:
    root = Path(__file__).parents[3]
    loaded = config.load(root)
    assert loaded.images["api"].platforms_of("cuda") == ("linux/amd64",)
    assert loaded.images["api"].platforms_of("local") == ("linux/amd64", "linux/arm64")
    assert {image.name: image.budget["prod"] for image in loaded.images.values()} == {
        "api": 90_000_000,
        "claude-proxy": 400_000_000,
        "redis": 60_000_000,
        "egress": 40_000_000,
        "balancer": 40_000_000,
        "prometheus": 117_000_000,
        "redis-exporter": 19_000_000,
        "local-llm": 80_000_000,
    }


@pytest.mark.parametrize("version", ["0.0.0", "1.2.3", "1.2.3-rc.1", "10.20.30-alpha-1.x"])
def test_versions_that_are_semantic(checkout: Path, version: str) -> None:
    (checkout / "VERSION").write_text(version + "\n")
    assert config.load(checkout).version == version


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-rc.01", "1.2.3 4", "1\u0661.2.3"])
def test_versions_that_are_not_semantic(checkout: Path, version: str) -> None:
    (checkout / "VERSION").write_text(version)
    assert faults(checkout) == [f'VERSION: "{version}" is not a semantic version; write one line such as 1.2.3']


def test_build_metadata_fits_no_tag(checkout: Path) -> None:
    (checkout / "VERSION").write_text("1.2.3+7")
    assert faults(checkout) == ['VERSION: "1.2.3+7" has build metadata, which no image tag can hold; drop the + part']


def test_a_missing_version(checkout: Path) -> None:
    (checkout / "VERSION").unlink()
    assert faults(checkout) == [
        "VERSION: cannot be read (No such file or directory); write one line such as 1.2.3",
    ]


def test_a_missing_list_of_images(checkout: Path) -> None:
    (checkout / "docker/images.toml").unlink()
    assert faults(checkout) == ["docker/images.toml: cannot be read (No such file or directory)"]


def test_a_list_that_is_not_toml(checkout: Path) -> None:
    (checkout / "docker/images.toml").write_text("source 1\n")
    assert faults(checkout) == [
        "docker/images.toml: is not valid TOML: Expected '=' after a key in a key/value pair (at line 1, column 8)",
    ]


def test_a_list_that_is_not_text(checkout: Path) -> None:
    (checkout / "docker/images.toml").write_bytes(b"source = '\xff'\n")
    assert faults(checkout) == [
        "docker/images.toml: cannot be read ('utf-8' codec can't decode byte 0xff in position 10: invalid start byte)",
    ]


#: name of the fault, text of the valid file, what it becomes, the one fault that follows
SINGLE = {
    "a key is missing": (
        'title      = "The API"\n',
        "",
        "image.api.title: is missing",
    ),
    "an unknown key at the top": (
        "licenses =",
        'license = "MIT"\nlicenses =',
        'license: unknown key; perhaps you meant "licenses"',
    ),
    "an unknown key of the base": (
        "suite =",
        'suit = "x"\nsuite =',
        'base.suit: unknown key; perhaps you meant "suite"',
    ),
    "an unknown key of an image": (
        "title ",
        'platform = "x"\ntitle ',
        'image.api.platform: unknown key; perhaps you meant "platforms"',
    ),
    "an unknown key that is near nothing": (
        "title ",
        "zzz = 1\ntitle ",
        "image.api.zzz: unknown key; known: arguments, budget, context, dockerfile, only, platforms, repository, "
        "targets, title",
    ),
    "a number where text is wanted": (
        '"The API"',
        "7",
        "image.api.title: must be a non-empty string, not 7",
    ),
    "blank text": (
        '"The API"',
        '" "',
        "image.api.title: must be a non-empty string, not ' '",
    ),
    "a repository that no registry takes": (
        '"llm-call-api"',
        '"LLM-Call"',
        'image.api.repository: "LLM-Call" is not a repository name; use lower case, for example llm-call-api',
    ),
    "a context that is a file": (
        'context    = "."',
        'context    = "VERSION"',
        'image.api.context: "VERSION" is not a folder of this checkout',
    ),
    "a context outside the checkout": (
        'context    = "."',
        'context    = "/usr"',
        'image.api.context: "/usr" is not a folder of this checkout',
    ),
    "a Dockerfile that is a folder": (
        '"docker/api/Dockerfile"',
        '"docker/api"',
        'image.api.dockerfile: "docker/api" is not a file of this checkout',
    ),
    "targets that are no list": (
        'targets    = ["prod"]',
        'targets    = "prod"',
        'image.redis.targets: must be a non-empty list of strings; write targets = ["..."]',
    ),
    "targets that are empty": (
        'targets    = ["prod"]',
        "targets    = []",
        'image.redis.targets: must be a non-empty list of strings; write targets = ["..."]',
    ),
    "platforms that are no strings": (
        'platforms  = ["linux/amd64"]',
        "platforms  = [64]",
        'image.redis.platforms: must be a non-empty list of strings; write platforms = ["..."]',
    ),
    "a target twice": (
        '"prod", "debug"]',
        '"prod", "debug", "prod"]',
        "image.api.targets: names a value twice",
    ),
    "a target that does not exist": (
        'targets    = ["prod"]',
        'targets    = ["prod", "produ"]',
        'image.redis.targets: unknown value "produ"; perhaps you meant "prod"',
    ),
    "a platform that we cannot build": (
        'platforms  = ["linux/amd64"]',
        'platforms  = ["linux/arm"]',
        'image.redis.platforms: "linux/arm" is not a platform we can build; perhaps you meant "linux/arm64"',
    ),
    "a budget for a target that the image lacks": (
        '{ prod = "90MB"',
        '{ pord = "90MB"',
        'image.api.budget.pord: no such target; perhaps you meant "prod"',
    ),
    "a budget in no known unit": (
        '"90MB"',
        '"90 MiB"',
        "image.api.budget.prod: '90 MiB' is not a size; write for example \"90MB\"",
    ),
    "a budget that is a number": (
        '"90MB"',
        "90",
        'image.api.budget.prod: 90 is not a size; write for example "90MB"',
    ),
    "a budget that is no table": (
        '{ prod = "90MB", debug = "1.2 GB" }',
        '"90MB"',
        "image.api.budget: must be a table",
    ),
    "a platform of a target that is not one of the image's": (
        "budget     = {",
        'only = { prod = ["linux/arm"] }\nbudget     = {',
        'image.api.only.prod: "linux/arm" is not among the platforms of this image; perhaps you meant "linux/arm64"',
    ),
    "platforms for a target that the image lacks": (
        "budget     = {",
        'only = { cuda = ["linux/amd64"] }\nbudget     = {',
        "image.api.only.cuda: no such target; known: debug, dev, prod",
    ),
    "a build argument that no Dockerfile can have": (
        "budget     = {",
        'arguments = { prod = ["jobs"] }\nbudget     = {',
        'image.api.arguments.prod: "jobs" is not the name of a build argument; write for example CUDA_ARCHITECTURES',
    ),
    "a name that is not lower case": (
        "[image.redis]",
        "[image.Redis]",
        "image.Redis: a name is lower-case letters, digits and dashes",
    ),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_one_fault_one_line(checkout: Path, kind: str) -> None:
    old, new, line = SINGLE[kind]
    edit(checkout, (old, new))
    assert faults(checkout) == [f"docker/images.toml: {line}"]


def test_two_images_that_would_overwrite_each_other(checkout: Path) -> None:
    edit(checkout, ('"llm-call-redis"', '"llm-call-api"'))
    (line,) = faults(checkout)
    assert line.startswith('docker/images.toml: image.redis.repository: "llm-call-api"')
    assert "image.api" in line


def test_an_image_that_is_no_table(checkout: Path) -> None:
    edit(checkout, ("[base]", "image.web = 5\n\n[base]"))
    place = "docker/images.toml: image.web"
    assert faults(checkout) == [
        f"{place}: must be a table; write [image.web]",
        f"{place}.repository: is missing",
        f"{place}.targets: is missing",
        f"{place}.title: is missing",
        f"{place}.context: is missing",
        f"{place}.dockerfile: is missing",
        f"{place}.platforms: is missing",
    ]


def test_an_empty_list_of_images(checkout: Path) -> None:
    (checkout / "docker/images.toml").write_text("")
    place = "docker/images.toml"
    assert faults(checkout) == [
        f"{place}: image: is missing",
        f"{place}: image: no image is declared; add a table such as [image.api]",
        f"{place}: source: is missing",
        f"{place}: licenses: is missing",
        f"{place}: base: is missing",
        f"{place}: base.image: is missing",
        f"{place}: base.suite: is missing",
    ]


def test_every_fault_of_both_files_at_once(checkout: Path) -> None:
    (checkout / "VERSION").write_text("one")
    edit(
        checkout,
        ("source   =", "sources  ="),
        ('suite = "trixie"', "suite = 13"),
        ('"linux/arm64"]', '"arm64"]'),
        ('"llm-call-redis"', '"Redis"'),
        ('"docker/redis/Dockerfile"', '"docker/redis/Dockerfil"'),
    )
    assert faults(checkout) == [
        'VERSION: "one" is not a semantic version; write one line such as 1.2.3',
        'docker/images.toml: sources: unknown key; perhaps you meant "source"',
        "docker/images.toml: source: is missing",
        "docker/images.toml: base.suite: must be a non-empty string, not 13",
        'docker/images.toml: image.api.platforms: "arm64" is not a platform we can build; perhaps you meant "linux/arm64"',
        'docker/images.toml: image.redis.repository: "Redis" is not a repository name; '
        "use lower case, for example llm-call-api",
        'docker/images.toml: image.redis.dockerfile: "docker/redis/Dockerfil" is not a file of this checkout',
    ]


def test_a_fault_reads_place_problem_hint() -> None:
    assert str(Fault("VERSION", "is odd", "mend it")) == "VERSION: is odd; mend it"
    assert str(Fault("VERSION", "is odd")) == "VERSION: is odd"
