"""Embedded engines of the tests' own: a SHIPYARD_HOME and a network namespace each, beside the engine in use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shipyard
from shipyard.engine import packages
from tests.support.dispositions import by_default
from tests.support.stack import ROOT, copy_tree


class Home:
    """A SHIPYARD_HOME with the unpacked programs; engines started for it live in a network namespace of their own."""

    def __init__(self, root: Path, checkout: Path) -> None:
        self.root, self.checkout = root, checkout

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))}
        return {**kept, "SHIPYARD_HOME": str(self.root), "HOME": str(self.root), "PYTHONPATH": ""}

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        # Without a way out of its namespace no second engine can disturb the first one's bridge.
        argv = ["unshare", "--net", sys.executable, "-m", "invoke", "--search-root", str(self.checkout), *words]
        return subprocess.Popen(
            by_default(argv),
            cwd=self.checkout,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def invoke(
        self, *words: str, status: int = 0, seconds: float = 120, **more: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **more)
        stdout, stderr = process.communicate(timeout=seconds)
        assert process.returncode == status, f"invoke {' '.join(words)}: {process.returncode}\n{stdout}\n{stderr}"
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.invoke("engine.status", "--json").stdout)
        return found

    def processes(self) -> dict[int, str]:
        """Every process that names this home in its command line, but for the tests' own invokes."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(self.root) in command and "invoke" not in command:
                found[int(folder.name)] = command
        return found

    def dockerd(self) -> int:
        (pid,) = [pid for pid, command in self.processes().items() if "--pidfile=" in command]
        return pid


@pytest.fixture
def home() -> Iterator[Home]:
    with shipyard.engine.lock("unpacking for the tests"):
        packages.ensure()
    # Not pytest's folder: a unix socket's path has 108 bytes.
    root = Path(tempfile.mkdtemp(prefix="shipyard-test-", dir="/tmp"))
    try:
        (root / packages.folder().name).symlink_to(packages.folder())
        (root / "checkout").mkdir()
        found = Home(root / "h", root / "checkout/tree")
        found.root.mkdir()
        (root / packages.folder().name).rename(found.root / packages.folder().name)
        copy_tree(ROOT, found.checkout)
        yield found
        found.invoke("engine.down")
        assert found.processes() == {}
    finally:
        # A killed engine leaves mounts of its steps and containers behind; the innermost goes first.
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((each for each in mounted if each.startswith(f"{root}/")), reverse=True):
            subprocess.run(["umount", place], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)
