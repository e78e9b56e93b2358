"""Locks as files and in words; and that the committed ones are whole."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

import shipyard
from shipyard import debian_locks, inputs
from shipyard.debian_locks import BUILDER, Change, Package
from shipyard.engine import Engine
from shipyard.errors import ConfigError, UnknownName
from shipyard.models import Base, Project
from shipyard.progress import Progress

ROOT = Path(__file__).parents[3]
A, B = "a" * 64, "b" * 64


def test_changes_of_several_architectures_are_one() -> None:
    before = [Package("amd64", "haproxy", "1", A), Package("arm64", "haproxy", "1", B), Package("amd64", "old", "2", A)]
    after = [Package("amd64", "haproxy", "3", B), Package("arm64", "haproxy", "3", A), Package("arm64", "new", "4", A)]
    found = debian_locks.changes(before, after)
    assert found == [
        Change("haproxy", ("amd64", "arm64"), "1", "3"),
        Change("new", ("arm64",), "", "4"),
        Change("old", ("amd64",), "2", ""),
    ]
    assert [str(each) for each in found] == [
        "haproxy 1 -> 3 (amd64, arm64)",
        "new 4, new (arm64)",
        "old 2, no longer needed (amd64)",
    ]
    assert debian_locks.changes(before, before) == []


def test_another_file_of_the_same_version_is_a_change() -> None:
    one, other = ([Package("amd64", "haproxy", "1", digest)] for digest in (A, B))
    assert debian_locks.changes(one, other) == [Change("haproxy", ("amd64",), "1", "1")]


def test_what_another_image_s_lock_holds_is_told_under_that_lock(project: Project, tmp_path: Path) -> None:
    """A stage that takes packages by another image's lock hands them out in a folder of that image's name."""
    for place in ("api/linux_amd64", "api/linux_amd64/redis", "api/linux_amd64/builder"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "amd64-1.stale").write_text("gone amd64 libc6 1 2\n")
    assert debian_locks._stale_lines(project, tmp_path) == {
        f"docker/{folder}/debian.lock: libc6 1 for amd64 can no longer be had; there is 2 now"
        for folder in ("api", "redis", "builder")
    }


def test_lines_that_are_no_lock_s_are_all_named(project: Project) -> None:
    path = debian_locks.place(project.images["api"])
    assert (path, debian_locks.read(project, path)) == ("docker/api/debian.lock", ())
    good = f"amd64 libc6 2:2.41-12+deb13u5 {A}"
    (project.root / path).write_text(f"{good}\n")
    assert debian_locks.read(project, path) == (Package("amd64", "libc6", "2:2.41-12+deb13u5", A),)
    (project.root / path).write_text(f"{good}\namd64 libc6 1\n{good} more\n")
    with pytest.raises(ConfigError) as failed:
        debian_locks.read(project, path)
    assert [fault.place for fault in failed.value.faults] == [f"{path}:2", f"{path}:3"]


def test_an_unknown_image_is_refused_before_anything_is_started(project: Project, engine: Engine) -> None:
    with pytest.raises(UnknownName, match='perhaps you meant "api"'):
        debian_locks.refresh(project, engine, ["apj"])


def test_a_failure_for_another_reason_is_not_the_lock_s(project: Project, engine: Engine) -> None:
    with Progress(["api-prod"]) as progress:
        data = b64encode(b"E: no space\n").decode()
        progress.line(
            '{"vertexes":[{"digest":"sha256:1","name":"[api-prod rootfs 1/1] RUN x","error":"exit code: 1"}]}'
        )
        progress.line(f'{{"logs":[{{"vertex":"sha256:1","data":"{data}"}}]}}')
    images = [project.images["api"]]
    assert debian_locks.stale(project, engine, Base("b", "d", "hub"), images, progress) is None


def test_the_committed_locks_are_whole_and_every_build_is_bound_to_them() -> None:
    project = shipyard.config.load(ROOT)
    for path in (*map(debian_locks.place, project.images.values()), BUILDER):
        packages = debian_locks.read(project, path)
        assert list(packages) == sorted(packages), path
        assert {each.arch for each in packages} == {"amd64", "arm64"}, path
        assert len({(each.arch, each.name) for each in packages}) == len(packages), path
    for image in project.images.values():
        found = inputs.digests(ROOT, image.context, image.dockerfile)
        assert {debian_locks.place(image), BUILDER} <= set(found), image.name
