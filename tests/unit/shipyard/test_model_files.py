"""The folder of model files: what services could not read there is told with what mends it, and nothing else of the folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipyard import model_files
from shipyard.models import Project


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and a part of one, as services want it."""
    found = tmp_path / "my models"
    for name in ("a.gguf", "inner/b.gguf"):
        write(found / name)
    return found


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("GGUF")
    path.chmod(0o644)
    return path


def told(project: Project, folder: Path | str = "", presets: str = "") -> list[str]:
    return [str(fault) for fault in model_files.faults(project, {"MODELS_FOLDER": str(folder)}, presets)]


def open_up(fault: str) -> None:
    """Do what stands between backticks: chmod for each of the paths that it names."""
    program, mode, end, *paths = shlex.split(fault.split("`")[1])
    assert (program, mode, end) == ("chmod", "go+rX", "--")
    for path in map(Path, paths):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def test_what_is_right(project: Project, folder: Path) -> None:
    assert told(project, folder) == []
    assert told(project) == [], "the checkout's own folder is made at the start"
    (project.root / "models").symlink_to(folder)
    assert told(project) == []


@pytest.mark.parametrize("target", ["nowhere", "models"])
def test_the_checkouts_own_folder_as_a_link_that_leads_nowhere(project: Project, target: str) -> None:
    own = project.root / "models"
    own.symlink_to(target)
    (fault,) = told(project)
    assert fault.startswith(f"{own}: is a link that leads to no folder; remove it")


def test_the_checkouts_own_folder_as_a_file(project: Project) -> None:
    own = write(project.root / "models")
    (fault,) = told(project)
    assert fault.startswith(f"{own}: is no folder; remove it")


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("models", '"models" is no absolute path'),
        ("~/models", '"~/models" is no absolute path'),
        ("/srv/a:b", '"/srv/a:b" has a colon'),
        ("/no/such", "/no/such is no folder of this machine"),
        ("/", "/ is a folder of the system"),
        ("//", "/, a folder of the system"),
        ("/srv/..", "/, a folder of the system"),
        ("/etc", "a folder of the system"),
        ("/proc/1", "a folder of the system"),
        ("/home", "a folder of the system"),
        ("/home/somebody", "is somebody's home"),
        ("/dev/shm", "a folder of the system"),
        ("/dev/shm/no-such-models", "is no folder of this machine"),
    ],
)
def test_folders_that_cannot_be(project: Project, place: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "walk", lambda top: pytest.fail(f"looked into {top}"))
    (fault,) = told(project, place)
    assert fault.startswith(".env: MODELS_FOLDER: ")
    assert problem in fault


def test_files_and_links_to_too_much_are_no_folders_for_models(project: Project, folder: Path, tmp_path: Path) -> None:
    assert "is no folder of this machine" in told(project, folder / "a.gguf")[0]
    Path.home().mkdir()
    for name, target, problem in (
        ("loop", "loop", "is no folder of this machine"),
        ("nowhere", "none", "is no folder of this machine"),
        ("all", "/", "is /, a folder of the system"),
        ("ours", project.root, "the checkout or more, with its secrets"),
        ("above", project.root.parent, "the checkout or more, with its secrets"),
        ("own", Path.home(), "is somebody's home"),
    ):
        (tmp_path / name).symlink_to(target)
        assert [problem for fault in told(project, tmp_path / name) if problem in fault] == [problem]


def test_files_that_services_could_not_read_are_named_and_no_others(project: Project, folder: Path) -> None:
    write(folder / "notes.txt").chmod(0o600)
    (folder / "private").mkdir(mode=0o700)
    assert told(project, folder) == []
    (folder / "inner/b.gguf").chmod(0o640)
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder}/inner/b.gguf: is not readable by others")
    (folder / "inner").chmod(0o700)
    folder.chmod(0o700)
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder} and 2 more: is not readable by others")
    open_up(fault)
    assert told(project, folder) == []
    assert (folder / "notes.txt").stat().st_mode & 0o077 == 0
    assert (folder / "private").stat().st_mode & 0o077 == 0


def test_of_many_files_a_few_are_named(project: Project, folder: Path) -> None:
    for number in range(8):
        write(folder / f"{number}.gguf").chmod(0o600)
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder}/0.gguf and 7 more")
    assert fault.endswith("4.gguf'`, and so on for 3 more")


def test_a_file_that_vanishes_meanwhile_is_no_fault(
    project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        yield str(top), ["gone"], ["a.gguf", "gone.gguf"]

    monkeypatch.setattr(os, "walk", walk)
    assert told(project, folder) == []


def test_relative_links_within_the_folder_work(project: Project, folder: Path) -> None:
    (folder / "one.gguf").symlink_to("inner/b.gguf")
    (folder / "two.gguf").symlink_to("inner/../one.gguf")
    (folder / "all").symlink_to("inner")
    (folder / "inner/three.gguf").symlink_to("../all/b.gguf")
    (folder / "four.gguf").symlink_to("/models/a.gguf")
    assert told(project, folder) == []
    (folder / "inner/b.gguf").chmod(0o600)
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder}/inner/b.gguf: is not readable"), "the file, not the link"
    open_up(fault)
    assert told(project, folder) == []


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_out_of_the_folder_is_told_with_what_mends_it(
    project: Project, folder: Path, tmp_path: Path, relative: bool
) -> None:
    target = write(tmp_path / "elsewhere/big.gguf")
    (folder / "big.gguf").symlink_to("../elsewhere/big.gguf" if relative else target)
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder}/big.gguf: is a link to {target}, which services cannot follow")
    assert f"or set MODELS_FOLDER to {target.parent}" in fault
    assert shlex.split(fault.split("`")[1]) == ["cp", "--remove-destination", "--", str(target), f"{folder}/big.gguf"]


def test_an_absolute_link_within_the_folder_is_none_for_services(project: Project, folder: Path) -> None:
    (folder / "same.gguf").symlink_to(folder / "a.gguf")
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder}/same.gguf: is a link to {folder}/a.gguf, which services cannot follow")


def test_a_link_to_a_folder_of_models_elsewhere(project: Project, folder: Path, tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere/big.gguf").parent
    (folder / "big").symlink_to(target)
    (tmp_path / "notes").mkdir()
    (folder / "notes").symlink_to(tmp_path / "notes")
    (fault,) = told(project, folder)
    assert fault.startswith(f"{folder}/big: is a link to {target}, which services cannot follow")
    assert f"put a copy in its place, or set MODELS_FOLDER to {target};" in fault


def test_links_that_lead_nowhere(project: Project, folder: Path) -> None:
    (folder / "circle.gguf").symlink_to("circle.gguf")
    (folder / "nowhere.gguf").symlink_to("none.gguf")
    (folder / "nowhere").symlink_to("none")
    problem = "is a link that leads nowhere; remove it, or put the file in its place"
    assert told(project, folder) == [f"{folder}/{name}.gguf: {problem}" for name in ("circle", "nowhere")]


@pytest.mark.parametrize("name", ["nope.ini", "inner", "/etc/passwd", "../models.ini"])
def test_presets_that_are_no_file_of_the_folder(project: Project, folder: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "models.ini")
    (fault,) = told(project, folder, name)
    assert fault.startswith(f".env: LOCAL_LLM_PRESETS: there is no file {name} in {folder}; write the name of a file")
    assert "there is no file" in told(project, "", name)[0]


def test_presets_are_read_by_services_too(project: Project, folder: Path) -> None:
    presets = write(folder / "models.ini")
    assert told(project, folder, "models.ini") == []
    presets.chmod(0o600)
    assert told(project, folder, "models.ini")[0].startswith(f"{presets}: is not readable by others")
    presets.unlink()
    presets.symlink_to("none.ini")
    assert told(project, folder, "models.ini")[0].startswith(f"{presets}: is a link that leads nowhere")
