"""The release's workflow runs the verbs and nothing more, with as few rights as it can, and actions pinned by commit."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.support.stack import ROOT

#: Verbs are the only programs of ours; around them what a bare machine needs: packages, git, the password's file.
KNOWN = ("apt-get", "git", "rm -f", "(umask 077 && printf")


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    return found


@pytest.fixture(scope="module")
def job(workflow: dict[Any, Any]) -> dict[str, Any]:
    (found,) = workflow["jobs"].values()
    return dict(found)


def test_it_may_do_only_what_a_release_needs(workflow: dict[Any, Any], job: dict[str, Any]) -> None:
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"contents": "write", "id-token": "write", "packages": "write"}
    assert set(workflow[True]) == {"workflow_dispatch"}  # YAML 1.1 reads the key `on` as true


def test_only_one_at_a_time_and_not_for_ever(workflow: dict[Any, Any], job: dict[str, Any]) -> None:
    assert workflow["concurrency"] and job["timeout-minutes"] <= 90


def test_actions_are_pinned_by_commit(job: dict[str, Any]) -> None:
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each) for each in used)


def test_it_runs_the_verb_and_nothing_more(job: dict[str, Any]) -> None:
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    assert [line for line in lines if not line.startswith(KNOWN)] == ["./scripts/invoke release"]


def test_secrets_reach_no_command_line_and_the_file_goes_away(job: dict[str, Any]) -> None:
    assert not [step for step in job["steps"] if "secrets." in step.get("run", "")]
    assert job["steps"][-1] == {"if": "always()", "run": 'rm -f "$SHIPYARD_REGISTRY_PASSWORD_FILE"'}
