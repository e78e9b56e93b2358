"""Fragments and chapters of the changelog."""

from __future__ import annotations

from pathlib import Path

import tomli

from shipyard import changelog
from tests.support.service import ROOT


def test_fragments_are_those_that_towncrier_takes(tmp_path: Path) -> None:
    assert changelog.fragments(tmp_path) == []
    folder = tmp_path / "changes"
    folder.mkdir()
    for name in ("b.feature.md", "a.bugfix.2.md", "+x.misc.md", ".gitkeep", "README.md", "notes.md", "c.feature.rst"):
        (folder / name).touch()
    assert changelog.fragments(tmp_path) == ["changes/+x.misc.md", "changes/a.bugfix.2.md", "changes/b.feature.md"]
    assert changelog.misnamed(tmp_path) == ["changes/c.feature.rst", "changes/notes.md"]


def test_a_chapter_is_its_version_s_own(tmp_path: Path) -> None:
    assert not changelog.has(tmp_path, "1.2.3")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.2.30 (2026-01-01)\n\n## 1.2.3-rc.1 (2026-01-01)\n\n## 0.1.0\n"
    )
    assert changelog.has(tmp_path, "1.2.30")
    assert changelog.has(tmp_path, "0.1.0")
    assert not changelog.has(tmp_path, "1.2.3")
    assert not changelog.has(tmp_path, "1.2.3-rc")


def test_this_checkout_s_changelog_is_the_one_that_is_read() -> None:
    settings = tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    assert (settings["directory"], settings["filename"]) == (changelog.FOLDER, changelog.FILE)
    assert changelog._HEAD.endswith(settings["start_string"])
    assert settings["title_format"].startswith("## {version}")
    assert changelog.misnamed(ROOT) == []
