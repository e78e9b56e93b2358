"""Shared files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipyard import machine
from shipyard.engine.types import home


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_document_comes_back(tmp_path: Path) -> None:
    machine.write("state.json", {"a": [1, None], "b": {"c": "d"}})
    assert machine.read("state.json") == {"a": [1, None], "b": {"c": "d"}}
    assert (tmp_path / "machine/state.json").read_text().endswith("}\n")
    assert names(tmp_path / "machine") == ["state.json"]


def test_absent_damaged_and_foreign_documents_read_as_empty() -> None:
    assert machine.read("state.json") == {}
    home().mkdir()
    for text in ('{"a": 1', "", "[1]", '"a"', "null"):
        (home() / "state.json").write_text(text)
        assert machine.read("state.json") == {}
    (home() / "state.json").write_bytes(b'{"a": "\xff"}')
    assert machine.read("state.json") == {}


def test_the_new_text_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/file"
    machine.replace(path, "one")
    machine.replace(path, "two")
    assert path.read_text() == "two"
    assert names(path.parent) == ["file"]


def test_a_secret_never_has_more_rights_than_it_ends_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(f"{os.fstat(handle).st_mode & 0o777:o}"))
    machine.replace(tmp_path / "secret", "s", 0o400)
    assert seen == ["400"]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o400


class Crash(BaseException):
    """As abrupt as Ctrl-C: nothing catches it."""


def test_a_crash_before_the_last_step_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise Crash

    path = tmp_path / "file"
    machine.replace(path, "old")
    for owner, step in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, crash)
            with pytest.raises(Crash):
                machine.replace(path, "new and longer")
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file"]
    machine.replace(path, "new")
    assert path.read_text() == "new"


def test_a_text_that_cannot_be_encoded_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    machine.replace(path, "old")
    with pytest.raises(UnicodeEncodeError):
        machine.replace(path, "new \udcff")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]
