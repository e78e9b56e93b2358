"""The bake request of a build, compared as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from shipyard.commands import bake
from shipyard.models import LABEL_ARGUMENTS, Base, Job, Project

BASE = Base("shipyard-base:0123", "sha256:b", "bootstrap")
EPOCH = 1767225600  # 2026-01-01T00:00:00Z


def target(job: Job, **changes: Any) -> dict[str, Any]:
    """What the API's job becomes, but for ``changes``."""
    return {
        "context": ".",
        "dockerfile": "docker/api/Dockerfile",
        "target": job.target,
        "platforms": list(job.platforms),
        "tags": [job.candidate],
        "labels": {
            "org.opencontainers.image.title": "The API",
            "org.opencontainers.image.source": "https://example.org/gateway",
            "org.opencontainers.image.licenses": "Apache-2.0",
            "org.opencontainers.image.version": "1.2.3",
            "org.opencontainers.image.revision": "abc123",
            "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
            "io.llm-call.shipyard.inputs": "f" * 64,
            "io.llm-call.shipyard.target": job.target,
            "io.llm-call.shipyard.platforms": ",".join(job.platforms),
            "io.llm-call.shipyard.files": (
                '{"docker/api/Dockerfile":"1111111111111111","src/app.py":"2222222222222222"}'
            ),
        },
        "args": {"SOURCE_DATE_EPOCH": "1767225600", "DEBIAN_LOCK": "prefer"},
        "contexts": {"debian:trixie-slim": "docker-image://shipyard-base:0123"},
        "secret": [],
        "output": ["type=image"],
        "no-cache": False,
        **changes,
    }


def test_argv() -> None:
    assert bake.argv("/opt/docker") == [
        "/opt/docker",
        "buildx",
        "bake",
        "--file",
        "-",
        "--progress",
        "rawjson",
    ]


def test_one_document_for_several_jobs(project: Project, job: Job) -> None:
    debug = replace(job, target="debug", reference="llm-call-api:1.2.3-debug", platforms=("linux/amd64", "linux/arm64"))
    document = json.loads(bake.document(project, [job, debug], BASE, revision="abc123", epoch=EPOCH))
    assert document == {
        "group": {"default": {"targets": ["api-prod", "api-debug"]}},
        "target": {"api-prod": target(job), "api-debug": target(debug)},
    }


def test_no_cache_and_secrets_by_file(project: Project, job: Job) -> None:
    document = json.loads(
        bake.document(
            project, [job], BASE, revision="abc123", epoch=EPOCH, no_cache=True, secrets={"ca": Path("/etc/ca.crt")}
        )
    )
    assert document == {
        "group": {"default": {"targets": ["api-prod"]}},
        "target": {"api-prod": target(job, secret=["id=ca,src=/etc/ca.crt"], **{"no-cache": True})},
    }


def test_a_release_s_layouts(project: Project, job: Job) -> None:
    document = json.loads(
        bake.document(
            project,
            [job],
            BASE,
            revision="abc123",
            epoch=EPOCH,
            again={"api": ["base", "prod"]},
            debian_lock="strict",
            layouts=Path("/srv/a, b"),
        )
    )
    changes = {
        "args": {"SOURCE_DATE_EPOCH": "1767225600", "DEBIAN_LOCK": "strict"},
        "tags": [],
        "output": ['type=oci,"dest=/srv/a, b/api-prod",tar=false'],
        "no-cache-filter": ["base", "prod"],
    }
    assert document["target"] == {"api-prod": target(job, **changes)}


def test_build_arguments_of_the_user_s(project: Project, job: Job) -> None:
    cuda = replace(job, arguments={"CUDA_ARCHITECTURES": "80;90"})
    document = json.loads(bake.document(project, [cuda], BASE, revision="abc123", epoch=EPOCH))
    args = {"SOURCE_DATE_EPOCH": "1767225600", "DEBIAN_LOCK": "prefer", "CUDA_ARCHITECTURES": "80;90"}
    assert document["target"] == {"api-prod": target(job, args=args)}


def test_a_target_that_takes_build_arguments_remembers_those_that_decide_its_content(
    project: Project, job: Job
) -> None:
    takes = replace(job.image, arguments={"prod": ("CUDA_ARCHITECTURES", "CUDA_BUILD_JOBS")})
    given = {"CUDA_ARCHITECTURES": "90", "CUDA_BUILD_JOBS": "4"}
    for arguments, label in (({}, "{}"), (given, '{"CUDA_ARCHITECTURES": "90"}')):
        labels = bake.labels(project, replace(job, image=takes, arguments=arguments), "abc123", EPOCH)
        assert labels[LABEL_ARGUMENTS] == label
    assert LABEL_ARGUMENTS not in bake.labels(project, job, "abc123", EPOCH)


def test_what_locks_are_written_from(project: Project) -> None:
    folder, secrets = Path("/srv/locks"), {"ca": Path("/etc/ca.crt")}
    document = json.loads(
        bake.locks_document(
            project, [project.images["redis"]], BASE, folder, epoch=EPOCH, secrets=secrets, debian_lock="refresh 1"
        )
    )
    assert document["target"] == {
        "redis": {
            "context": ".",
            "dockerfile": "docker/redis/Dockerfile",
            "target": "debian-lock",
            "platforms": ["linux/amd64"],
            "args": {"SOURCE_DATE_EPOCH": "1767225600", "DEBIAN_LOCK": "refresh 1"},
            "contexts": {"debian:trixie-slim": "docker-image://shipyard-base:0123"},
            "secret": ["id=ca,src=/etc/ca.crt"],
            "output": ["type=local,dest=/srv/locks/redis,platform-split=true"],
        }
    }


def test_the_environment_adds_to_the_given_one() -> None:
    assert bake.environment({"PATH": "/bin", "BUILDX_NO_DEFAULT_ATTESTATIONS": "0"}) == {
        "PATH": "/bin",
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "BUILDX_BAKE_ENTITLEMENTS_FS": "0",
    }
