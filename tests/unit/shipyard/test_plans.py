"""What the user asked for becomes images, targets, platforms and jobs; all unknown names are told at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shipyard import inputs, owned, plans
from shipyard.errors import UnknownName
from shipyard.models import Base, Image, Job, Project


def chosen(found: list[tuple[Image, str]]) -> list[tuple[str, str]]:
    return [(image.name, target) for image, target in found]


def every(project: Project, *names: str) -> list[tuple[Image, str]]:
    return [(project.images[name], "prod") for name in names]


def refusal(project: Project, names: list[str], target: str) -> str:
    with pytest.raises(UnknownName) as raised:
        plans.select(project, names, target)
    return str(raised.value)


def test_without_names_every_image_that_has_the_target(project: Project) -> None:
    assert chosen(plans.select(project, [], "prod")) == [("api", "prod"), ("redis", "prod")]
    assert chosen(plans.select(project, [], "dev")) == [("api", "dev")]


def test_named_images_once_each_in_the_order_asked(project: Project) -> None:
    assert chosen(plans.select(project, ["redis", "api", "redis"], "prod")) == [("redis", "prod"), ("api", "prod")]


def test_an_unknown_image(project: Project) -> None:
    assert refusal(project, ["redi"], "prod") == (
        'image "redi": not declared in docker/images.toml; perhaps you meant "redis"'
    )


def test_an_unknown_target(project: Project) -> None:
    assert refusal(project, [], "pord") == 'target "pord": no image has it; perhaps you meant "prod"'
    assert refusal(project, ["api"], "cuda") == 'target "cuda": no image has it; known: debug, dev, prod'


def test_a_named_image_must_have_the_target(project: Project) -> None:
    assert refusal(project, ["redis", "api"], "dev") == 'image "redis" has no target "dev"; it has prod'


def test_all_unknown_names_at_once(project: Project) -> None:
    assert refusal(project, ["ap", "api", "zzz"], "produ") == (
        'image "ap": not declared in docker/images.toml; perhaps you meant "api"\n'
        'image "zzz": not declared in docker/images.toml; known: api, redis\n'
        'target "produ": no image has it; perhaps you meant "prod"'
    )
    assert refusal(project, ["redis", "zzz"], "dev") == (
        'image "zzz": not declared in docker/images.toml; known: api, redis\n'
        'image "redis" has no target "dev"; it has prod'
    )


def test_platforms_default_to_the_native_one(project: Project) -> None:
    assert plans.platforms(every(project, "api"), "", "linux/arm64") == ("linux/arm64",)


def test_platforms_in_the_order_asked_short_names_and_repeats(project: Project) -> None:
    api = every(project, "api")
    assert plans.platforms(api, "linux/arm64, amd64,arm64,", "linux/amd64") == ("linux/arm64", "linux/amd64")


def test_all_platforms_are_those_that_every_image_has(project: Project) -> None:
    assert plans.platforms(every(project, "api"), "all", "linux/amd64") == ("linux/amd64", "linux/arm64")
    assert plans.platforms(every(project, "api", "redis"), "all", "linux/amd64") == ("linux/amd64",)


def test_a_target_may_have_fewer_platforms_than_its_image(project: Project) -> None:
    api = replace(project.images["api"], only={"debug": ("linux/arm64",)})
    assert plans.platforms([(api, "debug")], "all", "linux/amd64") == ("linux/arm64",)
    assert plans.platforms([(api, "prod")], "all", "linux/amd64") == ("linux/amd64", "linux/arm64")
    with pytest.raises(
        UnknownName, match='platform "linux/amd64": not declared for these images; perhaps you meant "linux/arm64"'
    ):
        plans.platforms([(api, "debug")], "", "linux/amd64")


def test_unknown_platforms_at_once(project: Project) -> None:
    with pytest.raises(UnknownName) as raised:
        plans.platforms(every(project, "api", "redis"), "amd65,linux/amd64,windows/x", "linux/amd64")
    assert str(raised.value) == (
        'platform "linux/amd65": not declared for these images; perhaps you meant "linux/amd64"\n'
        'platform "windows/x": not declared for these images; known: linux/amd64'
    )


def test_a_native_platform_that_no_image_has(project: Project) -> None:
    with pytest.raises(UnknownName) as raised:
        plans.platforms(every(project, "redis"), "", "linux/riscv64")
    assert str(raised.value).startswith('platform "linux/riscv64": not declared for these images; ')


def test_a_job_is_complete(project: Project) -> None:
    base = Base("shipyard-base:1", "sha256:b", "bootstrap")
    api = project.images["api"]
    files = inputs.digests(project.root, ".", "docker/api/Dockerfile")
    settings = {
        "version": "1.2.3",
        "source": "https://example.org/gateway",
        "licenses": "Apache-2.0",
        "title": "The API",
        "target": "dev",
        "base": "sha256:b",
    }
    made = plans.job(project, api, "dev", ("linux/arm64",), base, "localhost:5000")
    assert made == Job(
        image=api,
        target="dev",
        platforms=("linux/arm64",),
        reference="localhost:5000/llm-call-api:1.2.3-dev",
        files=files,
        inputs=inputs.combine(files, settings),
        owner=owned.mark(project.root),
    )
    assert made.key == "api-dev"
    assert made.candidate == f"localhost:5000/llm-call-api:1.2.3-dev-candidate-{owned.mark(project.root)}"


def test_what_belongs_to_the_hash_of_a_job(project: Project) -> None:
    base = Base("shipyard-base:1", "sha256:b", "bootstrap")
    api = project.images["api"]

    def hashed(
        project: Project = project, image: Image = api, target: str = "prod", base: Base | None = base, where: str = ""
    ) -> str:
        return plans.job(project, image, target, ("linux/amd64",), base, where).inputs

    different = [
        hashed(),
        hashed(project=replace(project, version="1.2.4")),
        hashed(project=replace(project, source="https://example.org/fork")),
        hashed(project=replace(project, licenses="MIT")),
        hashed(image=replace(api, title="Another")),
        hashed(target="debug"),
        hashed(base=replace(base, digest="sha256:c")),
        hashed(base=None),
    ]
    assert len(set(different)) == len(different)
    assert hashed(base=replace(base, reference="moved:2")) == hashed()
    assert hashed(where="localhost:5000") == hashed()
    assert plans.job(project, api, "prod", ("linux/arm64",), base).inputs == hashed()


def test_build_arguments_decide_the_content_but_for_how_many_jobs_there_are(project: Project) -> None:
    api, base = project.images["api"], Base("shipyard-base:1", "sha256:b", "bootstrap")

    def made(arguments: dict[str, str]) -> Job:
        return plans.job(project, api, "prod", ("linux/amd64",), base, "", arguments)

    plain, jobs, one = made({}), made({"CUDA_BUILD_JOBS": "8"}), made({"CUDA_ARCHITECTURES": "90"})
    assert plain == plans.job(project, api, "prod", ("linux/amd64",), base)
    assert (jobs.inputs, jobs.arguments) == (plain.inputs, {"CUDA_BUILD_JOBS": "8"})
    assert len({plain.inputs, one.inputs, made({"CUDA_ARCHITECTURES": "80"}).inputs}) == 3


@pytest.mark.parametrize("value", ["90", "80;86;89;90", "90a;120f", "100"])
def test_architectures_that_can_be(value: str) -> None:
    assert plans.faults({"CUDA_ARCHITECTURES": value, "CUDA_BUILD_JOBS": "16"}) == []


@pytest.mark.parametrize(
    "value", ["abc", "-1", "$(id)", "9", "90;", ";90", "80;;90", "80,90", "90 ", "90\n", "9.0", "90x"]
)
def test_architectures_that_cannot_be(value: str) -> None:
    (found,) = plans.faults({"CUDA_ARCHITECTURES": value})
    assert str(found) == (
        f'CUDA_ARCHITECTURES in the environment: "{value}" cannot be; write compute capabilities such as 80;86;90, or unset it'
    )


@pytest.mark.parametrize("value", ["0", "many", "-1", "2;3", "1000"])
def test_a_number_of_jobs_that_cannot_be(value: str) -> None:
    assert [str(each) for each in plans.faults({"CUDA_BUILD_JOBS": value})] == [
        f'CUDA_BUILD_JOBS in the environment: "{value}" cannot be; write a number such as 2, or unset it'
    ]
