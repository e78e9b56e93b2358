"""The folder of one request: its places, how it is made, and how it is removed whatever a tool left there."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRIVATE = 0o700
LEVELS = 64
"""How deep folders are removed here, with a file held open for each level; what goes deeper is left to rm."""
SYSTEM, SERVERS, HISTORY = "system.txt", "mcp.json", "history.jsonl"
"""Names of the files that a CLI reads at its start."""


@dataclass(frozen=True)
class Folder:
    """The places of one request; all below `root`, all private to it."""

    root: Path

    @property
    def work(self) -> Path:
        """The CLI's working directory."""
        return self.root / "work"

    @property
    def home(self) -> Path:
        """The CLI's HOME."""
        return self.root / "home"

    @property
    def config(self) -> Path:
        """The CLI's configuration folder."""
        return self.root / "config"

    @property
    def scratch(self) -> Path:
        """The CLI's TMPDIR."""
        return self.root / "tmp"

    @property
    def system(self) -> Path:
        """The file of the system prompt: a command line ends at 128 KiB and shows in the process list."""
        return self.root / SYSTEM

    @property
    def servers(self) -> Path:
        """The file of the MCP servers."""
        return self.root / SERVERS

    @property
    def history(self) -> Path:
        """The file of the earlier turns."""
        return self.root / HISTORY


def fill(folder: Folder, files: Mapping[str, bytes]) -> None:
    """Make the folder of a request with the files that its CLI reads, by their names; raises OSError."""
    make(folder)
    for name, content in files.items():
        (folder.root / name).write_bytes(content)


def make(folder: Folder) -> None:
    """Make the folder of a request; raises OSError."""
    for path in (folder.root, folder.work, folder.home, folder.config, folder.scratch):
        path.mkdir(mode=PRIVATE)


def clear(path: Path) -> None:
    """Remove a folder, also where a tool took the rights away or nested folders without end."""
    try:
        _remove(str(path), None, LEVELS)
    except OSError:
        for words in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*words, "--", str(path)], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _remove(name: str, parent: int | None, levels: int) -> None:
    """Remove a folder of at most so many levels, following no link; raises OSError."""
    if not levels:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_folder in found:
            if is_folder:
                _remove(child, folder, levels - 1)
            else:
                os.unlink(child, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)
