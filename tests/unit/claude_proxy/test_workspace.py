from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from claude_proxy.folders import HISTORY, LEVELS, SYSTEM, fill
from claude_proxy.workspace import Workspace, remove
from serving.settings import SettingsError


def test_a_request_has_a_private_folder_and_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "root")
    first, second = workspace.reserve(), workspace.reserve()
    fill(first, {SYSTEM: b"be brief", HISTORY: b"{}\n"})
    fill(second, {})
    assert first.system.read_text() == "be brief"
    assert first.history.read_bytes() == b"{}\n"
    assert not second.history.exists()
    places = (first.root.parent, first.root, first.work, first.home, first.config, first.scratch)
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o700}
    remove(first)
    assert not first.root.exists()
    assert second.root.exists()
    workspace.close()
    assert list((tmp_path / "root").iterdir()) == []


def test_the_living_are_spared_and_strangers_too(tmp_path: Path) -> None:
    (tmp_path / "proxy-of-somebody").mkdir()
    one = Workspace(tmp_path)
    two = Workspace(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    one.close()
    two.close()


def test_what_nobody_holds_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "proxy-left"
    left.mkdir()
    (left / "lock").touch()
    Workspace(tmp_path).close()
    assert not left.exists()


def test_what_is_too_deep_is_left_to_rm_and_the_lock_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rm itself: tests/services/test_claude_proxy_refusals.py."""
    workspace = Workspace(tmp_path)
    folder = workspace.reserve()
    fill(folder, {})
    Path(folder.work, *["deeper"] * LEVELS).mkdir(parents=True)
    called: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_options: called.append(words[0]))
    workspace.close()
    assert called == ["chmod", "rm"]
    assert {path.name for path in folder.root.parent.iterdir()} == {folder.root.name, "lock"}


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    workspace = Workspace(tmp_path / "root")
    folder = workspace.reserve()
    fill(folder, {})
    for number, target in enumerate((outside, outside / "file")):
        (folder.work / str(number)).symlink_to(target)
    remove(folder)
    assert not folder.root.exists()
    assert (outside / "file").exists()


def test_a_workspace_that_cannot_be_written_to_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"CLAUDE_PROXY_WORKSPACE: cannot write to .*/file/x: not a directory"):
        Workspace(tmp_path / "file" / "x")
