"""What is remembered of a stack between two commands, and what damaged files are worth: nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from shipyard import config, remembered
from shipyard.models import Project, Selection


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return dataclasses.replace(config.load(Path(__file__).parents[3]), root=tmp_path)


def test_the_last_start_is_remembered_and_forgotten(project: Project) -> None:
    assert remembered.started(project) is None
    chosen = Selection("prod", ("granger",), 3)
    remembered.start(project, chosen)
    first = remembered.started(project)
    assert first
    assert first.selection == chosen
    remembered.forget(project)
    assert remembered.started(project) is None


def test_the_same_selection_keeps_its_since(project: Project) -> None:
    remembered.start(project, Selection("prod"))
    path = project.state / "stack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "since": "2020-01-01 00:00:00"}))
    remembered.start(project, Selection("prod"))
    assert (found := remembered.started(project))
    assert found.since == "2020-01-01 00:00:00"
    remembered.start(project, Selection("hybrid"))
    assert (found := remembered.started(project))
    assert found.since > "2026"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"overlay": "prod", "add_ons": 3, "scale": 1}'])
def test_a_damaged_file_is_nothing(project: Project, text: str) -> None:
    project.state.mkdir()
    (project.state / "stack.json").write_text(text)
    assert remembered.started(project) is None


def test_a_kept_configuration_names_images_that_no_tag_moves(project: Project) -> None:
    asked = {
        "name": "x",
        "services": {
            "redis": {"image": "redis:1", "user": "1", "ulimits": {"core": {}}},
            "other": {"image": "hub/other:2"},
        },
    }
    remembered.keep(project, asked, {"redis:1": "sha256:abc"})
    kept = json.loads(remembered.configuration(project).read_text())
    assert kept["services"] == {
        "redis": {"image": "sha256:abc", "user": "1", "ulimits": {"core": 0}},
        "other": {"image": "hub/other:2"},
    }
