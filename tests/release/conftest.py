"""A real registry for each test, with nothing of this machine's own logins and settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import registries

#: Variables that say where a release goes and whose signature it gets, on this machine or in a job of a forge.
OURS = (
    *("SHIPYARD_REGISTRY", "SHIPYARD_SIGNING_", "SHIPYARD_PUBLIC_KEY", "SHIPYARD_CERTIFICATE_", "COSIGN_"),
    *("SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_", "GITHUB_WORKFLOW_REF"),
)


@pytest.fixture(autouse=True)
def _no_logins_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[registries.Served]:
    """Debian's docker-registry on a free port, open to everybody on this machine."""
    with registries.running(tmp_path / "registry") as found:
        yield found
