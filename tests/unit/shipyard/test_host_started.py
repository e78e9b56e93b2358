"""By what a start knows that the API on the host is another one than is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shipyard import host_started
from shipyard.models import Project


@pytest.fixture
def ours(project: Project) -> Project:
    for name in ("src/llm_call/api.py", "src/serving/worker.py", "src/claude_proxy/app.py", "config/models.toml"):
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text("x = 1\n")
    return project


def change(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text("x = 2\n")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("src/llm_call/api.py"), ["its code"]),
        (change("src/serving/new.py"), ["its code"]),
        (change("config/models.toml"), ["config/models.toml"]),
        (change("src/claude_proxy/app.py"), []),
        (change("README.md"), []),
        (lambda root: (root / "src/llm_call/api.py").touch(), []),
        (lambda root: (root / "config/models.toml").unlink(), ["config/models.toml"]),
    ],
)
def test_files_count_by_their_content(ours: Project, edit: Callable[[Path], object], said: list[str]) -> None:
    before = host_started.asked(ours, {})
    edit(ours.root)
    assert host_started.differences(before, host_started.asked(ours, {})) == said


def test_compiled_files_do_not_count(ours: Project) -> None:
    before = host_started.asked(ours, {})
    (ours.root / "src/llm_call/__pycache__").mkdir()
    (ours.root / "src/llm_call/__pycache__/api.pyc").write_text("")
    assert host_started.differences(before, host_started.asked(ours, {})) == []


def test_variables_count_also_those_that_are_gone(ours: Project) -> None:
    before = host_started.asked(ours, {"A": "1", "B": "2", "C": "3"})
    assert host_started.differences(before, host_started.asked(ours, {"A": "1", "B": "4", "D": "5"})) == ["B", "C", "D"]


def test_what_is_kept_holds_no_value(ours: Project) -> None:
    found = {4711: host_started.asked(ours, {"LLM_CALL_X": "a value of somebody"})}
    host_started.keep(ours, found)
    assert host_started.read(ours) == found
    assert "somebody" not in (ours.state / "host-api.json").read_text()
    host_started.keep(ours, {})
    assert host_started.read(ours) == {}
    assert not (ours.state / "host-api.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{damaged", '{"1": {"pid": 2}}', '{"one": {}}'])
def test_what_is_damaged_is_nothing(ours: Project, text: str) -> None:
    ours.state.mkdir(exist_ok=True)
    (ours.state / "host-api.json").write_text(text)
    assert host_started.read(ours) == {}


def test_a_person_s_process_is_held_against_the_file() -> None:
    path = os.environ["PATH"]
    assert host_started.strays(os.getppid(), {"NO_SUCH_VARIABLE": ""}) == []
    assert host_started.strays(os.getpid(), {"NO_SUCH_VARIABLE": "1", "PATH": path}) == ["NO_SUCH_VARIABLE"]
    assert host_started.strays(2**22 + 1, {"NO_SUCH_VARIABLE": "1"}) == []
