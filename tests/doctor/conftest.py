"""A machine with nothing wrong but what a test does to it: a copy of the tree, a toolkit's folder and a PATH of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shipyard
from shipyard.engine import Engine, packages
from tests.support.stack import ROOT, free_ports

#: The variables of every port that a stack publishes.
PORTS = sorted(
    {name for path in ROOT.glob("compose/*.yaml") for name in re.findall(r"\$\{(\w+_PORT):-", path.read_text())}
)


#: What of the tree the toolkit works with.
TREE = (
    "shipyard",
    "verbs",
    "src",
    "compose",
    "config",
    "docker",
    "tasks.py",
    "VERSION",
    "pyproject.toml",
    ".gitignore",
)


class Machine:
    """`invoke doctor` in a checkout of its own. ``home`` is its SHIPYARD_HOME, ``programs`` the first folder of its PATH."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.root, self.home, self.programs = folder / "tree", folder / "h", folder / "bin"
        for place in (self.home, self.programs, folder / "docker"):
            place.mkdir()
        for name in TREE:
            self.root.mkdir(exist_ok=True)
            if (ROOT / name).is_dir():
                # Without compose/.env, the link to the settings of whoever owns this checkout.
                shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns(".env", "__pycache__"))
            else:
                shutil.copy(ROOT / name, self.root / name)
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        (self.root / ".env").write_text("".join(f"{name}={port}\n" for name, port in self.ports.items()))
        project = shipyard.config.load(self.root)
        shipyard.secrets.init(project)
        shipyard.bases.ensure(engine, project.base)
        shutil.copy(shipyard.engine.types.home() / "base.json", self.home)
        (self.home / packages.folder().name).symlink_to(packages.folder())
        (port,) = free_ports(1)
        self.variables = {
            "DOCKER_HOST": engine.host,
            "DOCKER_CONFIG": str(folder / "docker"),
            "HOME": str(folder),
            "SHIPYARD_HOME": str(self.home),
            "SHIPYARD_REGISTRY_PORT": str(port),
        }

    def environment(self) -> dict[str, str]:
        """Nothing of the caller's that decides about engines, registries or certificates."""
        families = ("DOCKER_", "COMPOSE_", "SHIPYARD_", "PYTEST_", "BUILDX_", "COSIGN_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(families) and not name.endswith(("_CA_BUNDLE", "SSL_CERT_FILE"))
        }
        return {**kept, "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}", **self.variables}

    def invoke(self, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """A verb to its end, whatever that is."""
        argv = [*prefix, sys.executable, "-m", "invoke", "--search-root", str(self.root), *words]
        return subprocess.run(
            argv, cwd=self.root, env=self.environment(), check=False, capture_output=True, text=True, timeout=120
        )

    def examined(self, *words: str, status: int, prefix: tuple[str, ...] = ()) -> Report:
        """`invoke doctor --json`, held to its exit status: the one document on stdout."""
        done = self.invoke("doctor", "--json", *words, prefix=prefix)
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return Report(json.loads(done.stdout), done.stderr)


class Report:
    """What `invoke doctor` found, check by check."""

    def __init__(self, document: dict[str, Any], stderr: str) -> None:
        self.document, self.stderr = document, stderr
        self.checks: dict[str, dict[str, Any]] = {each["name"]: each for each in document["checks"]}
        helpless = [
            name for name, each in self.checks.items() if each["state"] in ("warn", "fail") and not each["mend"]
        ]
        assert helpless == [], "whatever is wrong comes with what mends it"

    def state(self, name: str) -> str:
        """Of one check."""
        return str(self.checks[name]["state"])

    def seen(self, name: str) -> str:
        """By one check."""
        return str(self.checks[name]["seen"])

    def mend(self, name: str) -> str:
        """What mends it, in one line."""
        return " ".join(self.checks[name]["mend"])

    def failed(self) -> set[str]:
        """The names of those that fail."""
        return {name for name, each in self.checks.items() if each["state"] == "fail"}


@pytest.fixture
def machine() -> Iterator[Machine]:
    engine = shipyard.engine.find()
    with shipyard.engine.lock("unpacking for the tests"):
        packages.ensure()
    # Not pytest's folder: a unix socket's path has 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="shipyard-test-", dir="/tmp"))
    try:
        yield Machine(folder, engine)
    finally:
        # A killed engine leaves mounts behind; the innermost goes first.
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((each for each in mounted if each.startswith(f"{folder}/")), reverse=True):
            subprocess.run(["umount", place], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
