"""Growth since the last release: told by image and platform, unless somebody changed the budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shipyard import growth, recorded, source
from shipyard.artifacts import Artifact, Part
from shipyard.models import Project

BEFORE = {
    "version": "1.2.2",
    "images": [{"key": "api-prod", "platforms": [{"platform": "linux/amd64", "size": 100_000_000}]}],
}


def artifact(size: int, target: str = "prod", platform: str = "linux/amd64") -> Artifact:
    part = Part(platform, "sha256:p", size, ())
    return Artifact("api", target, "127.0.0.1:5000/llm-call-api", "1.2.3", "sha256:i", Path(), (part,))


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "text", lambda *_: None)


@pytest.fixture
def released(project: Project) -> Project:
    (project.root / "dist").mkdir()
    (project.root / "dist/release.json").write_text(json.dumps(BEFORE))
    return project


def test_more_than_one_percent_is_told(released: Project) -> None:
    assert growth.told(released, [artifact(101_000_000)]) == []
    assert growth.told(released, [artifact(104_200_000)]) == [
        "api-prod linux/amd64 grew by 4.2 % (100.0 MB in 1.2.2, 104.2 MB now, compressed); `invoke size` shows what is in "
        "it, another budget in docker/images.toml says that it is meant"
    ]


def test_nothing_to_compare_with(released: Project) -> None:
    assert growth.told(released, [artifact(900_000_000, "cuda"), artifact(900_000_000, platform="linux/arm64")]) == []
    (released.root / "dist/release.json").unlink()
    assert growth.told(released, [artifact(900_000_000)]) == []


def test_a_release_that_is_run_again_is_compared_with_the_one_before(released: Project) -> None:
    again = {"version": "1.2.3", "previous": {"version": "1.2.1", "sizes": {"api-prod": {"linux/amd64": 50_000_000}}}}
    (released.root / "dist/release.json").write_text(json.dumps(again))
    assert recorded.sizes(released) == ("1.2.1", {"api-prod": {"linux/amd64": 50_000_000}})
    (line,) = growth.told(released, [artifact(100_000_000)])
    assert "grew by 100.0 % (50.0 MB in 1.2.1," in line


def test_another_budget_says_that_it_is_meant(released: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    images = (released.root / "docker/images.toml").read_text()
    monkeypatch.setattr(source, "text", lambda root, revision, path: images if revision == "v1.2.2" else None)
    assert len(growth.told(released, [artifact(150_000_000)])) == 1
    larger = replace(released.images["api"], budget={"prod": 160_000_000})
    meant = replace(released, images={**released.images, "api": larger})
    assert growth.told(meant, [artifact(150_000_000)]) == []
