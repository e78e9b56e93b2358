"""The changelog: fragments in changes/, which towncrier turns into a chapter of CHANGELOG.md."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shipyard.errors import CommandFailed, ReleaseRefused
from shipyard.run import run

FILE, FOLDER = "CHANGELOG.md", "changes"
#: What a new changelog begins with; pyproject.toml's start_string is its last line.
_HEAD = "# Changelog\n\n<!-- releases, newest first -->\n"
#: towncrier's own types (its documentation, "Configuration", types), as ``pyproject.toml`` declares no others.
_FRAGMENT = re.compile(r".+\.(feature|bugfix|doc|removal|misc)(\.\d+)?\.md")
_IGNORED = (".gitkeep", ".gitignore", "README.md")


def fragments(root: Path) -> list[str]:
    """Paths of the fragments that await a release, relative to the checkout."""
    return [f"{FOLDER}/{path.name}" for path in _files(root) if _FRAGMENT.fullmatch(path.name)]


def misnamed(root: Path) -> list[str]:
    """Files of changes/ that towncrier would pass over."""
    return [f"{FOLDER}/{path.name}" for path in _files(root) if not _FRAGMENT.fullmatch(path.name)]


def has(root: Path, version: str) -> bool:
    """Whether CHANGELOG.md has a chapter of the version."""
    try:
        text = (root / FILE).read_text()
    except OSError:
        return False
    return re.search(rf"^## {re.escape(version)}(?: |$)", text, re.MULTILINE) is not None


@contextmanager
def written(root: Path, version: str, date: str) -> Iterator[Mapping[str, Path | None]]:
    """The files that a release changes, by their paths in the checkout: content in a folder of its own, None for one that goes.

    ``date`` is what the chapter is dated (ISO 8601). Raises ReleaseRefused with what towncrier says.
    """
    used = fragments(root)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(root / "pyproject.toml", folder)
        shutil.copytree(root / FOLDER, folder / FOLDER)
        (folder / FILE).write_text((root / FILE).read_text() if (root / FILE).exists() else _HEAD)
        _towncrier(folder, version, date)
        (folder / "VERSION").write_text(version + "\n")
        yield {FILE: folder / FILE, "VERSION": folder / "VERSION", **dict.fromkeys(used)}


def _files(root: Path) -> list[Path]:
    folder = root / FOLDER
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.is_file() and path.name not in _IGNORED]


def _towncrier(folder: Path, version: str, date: str) -> None:
    argv = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", version, "--date", date, "--dir", "."]
    # It asks git to remove fragments when it is inside a repository, which a folder for temporary files may be.
    apart = {"GIT_DIR": str(folder / "none"), "GIT_CEILING_DIRECTORIES": str(folder.parent), "LC_ALL": "C.UTF-8"}
    try:
        run(argv, env={**os.environ, **apart}, cwd=folder, timeout=60)
    except CommandFailed as failed:
        msg = f"towncrier cannot write the changelog of {version}: {failed.stderr.strip()[-500:]}; look at {FOLDER}/"
        raise ReleaseRefused(msg) from failed
    if not has(folder, version):
        msg = f"towncrier wrote no chapter of {version}; look at [tool.towncrier] in pyproject.toml"
        raise ReleaseRefused(msg)
