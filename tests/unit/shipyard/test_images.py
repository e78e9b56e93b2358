"""Why an image is built or not, and what a failed request is called. The engine is a double of its two questions."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import docker
from shipyard import bases, failures, host, images, plans, sizes
from shipyard.engine import Engine
from shipyard.errors import BuildFailed, CommandFailed, ConfigError, DiskFull, EngineFailed, OverBudget
from shipyard.images import Request
from shipyard.models import LABEL_ARGUMENTS, LABEL_FILES, LABEL_INPUTS, LABEL_PLATFORMS, Base, BuildResult, Job, Project
from shipyard.progress import Progress, Step
from shipyard.run import Completed

BASE = Base("shipyard-base:1", "sha256:b", "bootstrap")


class Api:
    """What ``shipyard.engine.api`` would answer: images by reference, and documents by path; None is an engine that is gone."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.documents: dict[str, Any] = {"/version": {"Arch": "amd64"}}
        self.alive = True

    def image(self, host: str, reference: str) -> dict[str, Any] | None:
        assert host == "unix:///engine.sock"
        return self.images.get(reference)

    def get(self, host: str, path: str) -> Any:
        return self.documents.get(path)

    def version(self, host: str) -> str | None:
        return "28.5.2" if self.alive else None

    def built(self, job: Job, **labels: str) -> None:
        """The engine holds this job's image, made from the job's own inputs but for ``labels``."""
        known = {
            LABEL_INPUTS: job.inputs,
            LABEL_FILES: json.dumps(dict(job.files)),
            LABEL_PLATFORMS: ",".join(job.platforms),
        }
        self.images[job.reference] = {"Id": f"sha256:{job.key}", "Config": {"Labels": {**known, **labels}}}


class Client:
    """The part of the Docker SDK that names and removes images, over the same images."""

    def __init__(self, double: Api) -> None:
        self.images, self.api = double.images, self

    def tag(self, image: str, repository: str, tag: str) -> None:
        self.images[f"{repository}:{tag}"] = next(
            each for each in reversed(self.images.values()) if each["Id"] == image
        )

    def remove_image(self, image: str, *, noprune: bool) -> None:
        assert noprune
        del self.images[image]

    def close(self) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    double = Api()
    monkeypatch.setattr(images, "api", double)
    monkeypatch.setattr(failures, "api", double)
    monkeypatch.setattr(docker, "DockerClient", lambda base_url: Client(double))
    return double


# --- staleness ---


def test_an_image_from_the_same_inputs_is_current(api: Api, engine: Engine, job: Job) -> None:
    api.built(job)
    assert images.staleness(engine, job) == ""


def test_an_image_that_is_not_there(api: Api, engine: Engine, job: Job) -> None:
    assert images.staleness(engine, job) == "not built yet"


def test_an_image_of_the_same_name_that_is_not_ours(api: Api, engine: Engine, job: Job) -> None:
    for config in ({"Config": {"Labels": None}}, {"Config": None}, {}):
        api.images[job.reference] = {"Id": "sha256:x", **config}
        assert images.staleness(engine, job) == "added docker/api/Dockerfile and 1 more"


def test_files_that_changed(api: Api, engine: Engine, job: Job) -> None:
    api.built(job, **{LABEL_INPUTS: "0", LABEL_FILES: json.dumps({**job.files, "src/app.py": "3"})})
    assert images.staleness(engine, job) == "changed src/app.py"
    api.built(job, **{LABEL_INPUTS: "0", LABEL_FILES: json.dumps({"gone": "1", "src/app.py": "3"})})
    assert images.staleness(engine, job) == "added docker/api/Dockerfile and 2 more"


def test_settings_that_changed(api: Api, engine: Engine, job: Job) -> None:
    api.built(job, **{LABEL_INPUTS: "0"})
    assert images.staleness(engine, job) == "version, base or settings changed"
    api.built(job, **{LABEL_INPUTS: "0", LABEL_FILES: "{damaged"})
    assert images.staleness(engine, job) == "version, base or settings changed"


def test_platforms_that_are_missing(api: Api, engine: Engine, job: Job) -> None:
    both = replace(job, platforms=("linux/arm64", "linux/amd64"))
    api.built(job, **{LABEL_PLATFORMS: "linux/s390x"})
    assert images.staleness(engine, both) == "without linux/amd64, linux/arm64"
    api.built(job)
    assert images.staleness(engine, both) == "without linux/arm64"
    api.built(both)
    assert images.staleness(engine, job) == "", "an image may hold more platforms than were asked for"


def test_no_cache_builds_what_is_current(api: Api, engine: Engine, job: Job) -> None:
    api.built(job)
    assert images.staleness(engine, job, no_cache=True) == "no cache wanted"


# --- why ---


def test_why_names_every_file(api: Api, engine: Engine, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "remembered", lambda engine, base: BASE)
    current, redis = images.plan(project, engine, Request())
    api.built(current)
    before = {**redis.files, "redis.conf": "0", "gone": "1"}
    api.built(redis, **{LABEL_INPUTS: "0", LABEL_FILES: json.dumps(before)})
    assert images.why(project, engine, Request()) == {
        "llm-call-api:1.2.3": [],
        "llm-call-redis:1.2.3": ["removed gone", "changed redis.conf"],
    }
    api.built(redis, **{LABEL_INPUTS: "0"})
    del api.images[current.reference]
    assert images.why(project, engine, Request()) == {
        "llm-call-api:1.2.3": ["not built yet"],
        "llm-call-redis:1.2.3": ["version, base or settings changed"],
    }


def test_the_plan_of_a_request(api: Api, engine: Engine, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    api.documents["/version"] = {"Arch": "arm64"}
    monkeypatch.setattr(bases, "remembered", lambda engine, base: BASE)
    request = Request(images=("api",), target="dev", registry="localhost:5000")
    assert images.plan(project, engine, request) == [
        plans.job(project, project.images["api"], "dev", ("linux/arm64",), BASE, "localhost:5000")
    ]


# --- build: what is skipped and what is handed to the builder ---


@pytest.fixture
def builder(api: Api, project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A builder that makes what it is asked for; the keys that it was asked for, one request after the other."""
    asked: list[str] = []

    def make(project: Project, engine: Engine, jobs: list[Job], base: Base, request: Request) -> dict[str, float]:
        asked.append(" ".join(job.key for job in jobs))
        for job in jobs:
            api.built(replace(job, reference=job.candidate))
        return {job.key: 1.234 for job in jobs}

    monkeypatch.setattr(bases, "remembered", lambda engine, base: BASE)
    monkeypatch.setattr(bases, "ensure", lambda engine, base: BASE)
    monkeypatch.setattr(images, "_bake", make)
    monkeypatch.setattr(sizes, "known", lambda digest: 5_000_000)
    monkeypatch.setattr(sizes, "measure", lambda *_: sizes.Inventory(5_000_000, (("bin/x", 4_000_000),)))
    yield asked


def result(name: str, status: str, reason: str, seconds: float) -> BuildResult:
    reference = f"llm-call-{name}:1.2.3"
    digest = f"sha256:{name}-prod"
    return BuildResult(name, "prod", "linux/amd64", reference, digest, 5_000_000, status, reason, seconds)


def test_one_request_for_all_then_none(
    builder: list[str], engine: Engine, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert images.build(project, engine, Request()) == [
        result("api", "built", "not built yet", 1.23),
        result("redis", "built", "not built yet", 1.23),
    ]
    assert builder == ["api-prod redis-prod"]
    capsys.readouterr()
    assert images.build(project, engine, Request()) == [
        result("api", "skipped", "up to date", 0.0),
        result("redis", "skipped", "up to date", 0.0),
    ]
    assert builder == ["api-prod redis-prod"], "nothing changed, so the builder is not called"
    assert capsys.readouterr().err == (
        "  - llm-call-api:1.2.3: up to date, not built (sha256:api-prod)\n"
        "  - llm-call-redis:1.2.3: up to date, not built (sha256:redis-prod)\n"
    )


def test_only_what_changed_or_was_pruned_is_built_again(
    builder: list[str], api: Api, engine: Engine, project: Project
) -> None:
    images.build(project, engine, Request())
    (project.root / "src/app.py").write_text("changed")
    assert [each.reason for each in images.build(project, engine, Request())] == ["changed src/app.py", "up to date"]
    del api.images["llm-call-redis:1.2.3"]
    assert [each.reason for each in images.build(project, engine, Request())] == ["up to date", "not built yet"]
    assert builder == ["api-prod redis-prod", "api-prod", "redis-prod"]


def test_an_image_over_its_budget_is_never_named(
    builder: list[str], api: Api, engine: Engine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "measure", lambda *_: sizes.Inventory(91_000_000, (("bin/x", 88_000_000),)))
    with pytest.raises(OverBudget) as raised:
        images.build(project, engine, Request())
    assert str(raised.value) == (
        "llm-call-api:1.2.3 is 91.0 MB, over its budget of 90.0 MB (docker/images.toml: image.api.budget.prod). "
        "Its biggest files:\n       88.0 MB  /bin/x"
    )
    assert api.images == {}, "the candidate is gone, and redis, built in the same request, got no name either"
    earlier = api.images["llm-call-api:1.2.3"] = {"Id": "sha256:earlier"}
    with pytest.raises(OverBudget):
        images.build(project, engine, Request(no_cache=True))
    assert api.images == {"llm-call-api:1.2.3": earlier}


def test_an_image_with_a_cuda_library_twice_is_never_named(
    builder: list[str], api: Api, engine: Engine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sizes.Inventory(5_000_000, (), ("a/libcudart.so.13", "b/libcudart.so.13"))
    monkeypatch.setattr(sizes, "measure", lambda *_: found)
    with pytest.raises(OverBudget) as raised:
        images.build(project, engine, Request())
    assert str(raised.value) == (
        "llm-call-api:1.2.3 has CUDA libraries twice: a/libcudart.so.13, b/libcudart.so.13; one copy is enough"
    )
    assert api.images == {}


def test_build_arguments_come_from_the_environment_for_the_target_that_takes_them(
    engine: Engine, project: Project, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "remembered", lambda engine, base: BASE)
    takes = replace(project.images["api"], arguments={"debug": ("CUDA_ARCHITECTURES", "CUDA_BUILD_JOBS")})
    mine = replace(project, images={"api": takes})
    monkeypatch.setenv("CUDA_ARCHITECTURES", "90")
    monkeypatch.setenv("CUDA_BUILD_JOBS", "")
    (debug,) = images.plan(mine, engine, Request(target="debug"))
    (prod,) = images.plan(mine, engine, Request())
    assert (debug.arguments, prod.arguments) == ({"CUDA_ARCHITECTURES": "90"}, {})
    monkeypatch.delenv("CUDA_ARCHITECTURES")
    assert images.plan(mine, engine, Request(target="debug"))[0].inputs != debug.inputs
    assert images.plan(mine, engine, Request())[0].inputs == prod.inputs


def test_a_build_argument_that_changed_is_named_beside_files(api: Api, engine: Engine, job: Job) -> None:
    mine = replace(job, arguments={"CUDA_ARCHITECTURES": "90", "CUDA_BUILD_JOBS": "4"})
    other = {LABEL_INPUTS: "0", LABEL_FILES: json.dumps({**job.files, "src/app.py": "3"})}
    api.built(mine, **other, **{LABEL_ARGUMENTS: '{"CUDA_ARCHITECTURES": "80;86"}'})
    assert images.staleness(engine, mine) == "CUDA_ARCHITECTURES was 80;86, is 90 and 1 more"
    api.built(mine, **{LABEL_INPUTS: "0", LABEL_ARGUMENTS: "{}"})
    assert images.staleness(engine, mine) == "CUDA_ARCHITECTURES was the Dockerfile's own, is 90"
    api.built(job, **{LABEL_INPUTS: "0", LABEL_ARGUMENTS: '{"CUDA_ARCHITECTURES": "90"}'})
    assert images.staleness(engine, job) == "CUDA_ARCHITECTURES was 90, is the Dockerfile's own"
    api.built(mine, **other)  # by an earlier version, which did not remember them
    assert images.staleness(engine, mine) == "changed src/app.py"


def test_a_build_argument_that_cannot_be_ends_the_plan(
    engine: Engine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = replace(project.images["api"], arguments={"debug": ("CUDA_ARCHITECTURES",)})
    monkeypatch.setenv("CUDA_ARCHITECTURES", "$(id)")
    with pytest.raises(ConfigError, match=r'CUDA_ARCHITECTURES in the environment: "\$\(id\)" cannot be'):
        images.plan(replace(project, images={"api": takes}), engine, Request(target="debug"))


# --- failures ---


def broken(
    job: Job, *, error: str = "exit code: 2", log: tuple[str, ...] = (), other: tuple[str, ...] = ()
) -> Progress:
    """A request that ended with this step's error, as the builder told it."""
    progress = Progress([job.key])
    step = Step(job.key, "rootfs 2/5 RUN make", error=error)
    step.log.extend(log)
    progress.steps["sha256:1"] = step
    progress.other.extend(other)
    return progress


def test_a_failed_step_shows_image_place_and_last_lines(api: Api, engine: Engine, job: Job) -> None:
    other = ("Dockerfile:12", "", "  12 | >>> RUN make", "ERROR: failed to solve")
    failed = failures.explain(engine, broken(job, log=("cc main.c", "main.c:1: error"), other=other), [job])
    assert type(failed) is BuildFailed
    assert str(failed) == (
        "llm-call-api:1.2.3 (docker/api/Dockerfile, target prod) failed at: rootfs 2/5 RUN make\n"
        "    cc main.c\n"
        "    main.c:1: error\n"
        "docker/api/Dockerfile:12\n"
        "  12 | >>> RUN make\n"
        "ERROR: failed to solve"
    )


def test_a_request_that_failed_before_any_step(api: Api, engine: Engine, job: Job) -> None:
    progress = Progress([job.key])
    progress.other.append("ERROR: failed to parse stdin")
    failed = failures.explain(engine, progress, [job])
    assert type(failed) is BuildFailed
    assert str(failed) == "the build request failed\nERROR: failed to parse stdin"


def test_a_full_disk(api: Api, engine: Engine, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(20_000_000, 19_500_000, 500_000))
    api.documents["/info"] = {"DockerRootDir": f"{tmp_path}/not/made/yet"}
    expected = (
        f"no space left for the build. {tmp_path} has 0.5 MB free of 20.0 MB.\n"
        "Free some (`docker system df` shows what the engine holds, `docker builder prune` empties its cache) and build again."
    )
    told = (
        broken(job, log=("cp: error writing 'x': No space left on device",)),
        broken(job, error="write /var/lib: no space left on device"),
        broken(job, other=("ERROR: write /data: no space left on device",)),
    )
    for progress in told:
        failed = failures.explain(engine, progress, [job])
        assert type(failed) is DiskFull
        assert str(failed) == expected


def test_an_engine_that_went_away(api: Api, engine: Engine, job: Job) -> None:
    expected = (
        "the Docker engine at unix:///engine.sock went away during the build; images built before are untouched. "
        "Start it (`invoke engine.up`) and build again."
    )
    lost = broken(job, error="", other=("ERROR: rpc error: code = Unavailable desc = error reading from server: EOF",))
    failed = failures.explain(engine, lost, [job])  # it may be back already
    assert (type(failed), str(failed)) == (EngineFailed, expected)
    api.alive = False
    failed = failures.explain(engine, broken(job), [job])
    assert (type(failed), str(failed)) == (EngineFailed, expected)


def test_a_full_disk_explains_an_engine_that_went_away(api: Api, engine: Engine, job: Job) -> None:
    api.alive = False
    failed = failures.explain(engine, broken(job, error="no space left on device"), [job])
    assert type(failed) is DiskFull


# --- the CA bundle ---


def test_the_first_bundle_that_exists_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_DEBIAN_BUNDLE", tmp_path / "debian.crt")
    assert host.ca_bundle() is None
    (tmp_path / "debian.crt").touch()
    assert host.ca_bundle() == tmp_path / "debian.crt"
    (tmp_path / "mine.crt").touch()
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "mine.crt"))
    monkeypatch.setenv("SHIPYARD_CA_BUNDLE", str(tmp_path / "absent.crt"))
    assert host.ca_bundle() == tmp_path / "mine.crt"


# --- revision and time ---


class Git:
    """The answers of git, in turn; an error stands for one that it ends with."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)

    def __call__(self, argv: list[str], **_: Any) -> Completed:
        assert argv[0] == "git"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Completed(0, answer, "")


def test_the_commit_and_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "run", Git("abc123 1700000000\n", ""))
    assert host.revision(tmp_path) == ("abc123", 1_700_000_000)
    monkeypatch.setattr(host, "run", Git("abc123 1700000000\n", " M src/app.py\n"))
    assert host.revision(tmp_path) == ("abc123-dirty", 1_700_000_000)


def test_source_date_epoch_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    monkeypatch.setattr(host, "run", Git("abc123 1700000000\n", ""))
    assert host.revision(tmp_path) == ("abc123", 1_600_000_000)
    monkeypatch.setattr(host, "run", Git(CommandFailed(["git"], 128, "fatal: not a git repository")))
    assert host.revision(tmp_path) == ("unknown", 1_600_000_000)


def test_outside_a_git_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "run", Git(CommandFailed(["git"], 128, "fatal: not a git repository")))
    assert host.revision(tmp_path) == ("unknown", 1_767_225_600)


def test_without_git_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_program(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "git")

    monkeypatch.setattr(subprocess, "Popen", no_such_program)
    assert host.revision(tmp_path) == ("unknown", 1_767_225_600)
