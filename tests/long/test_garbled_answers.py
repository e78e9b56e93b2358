"""Whatever a cache, a proxy or a cable makes of a registry's answers: a release asks again, in every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipyard import pipeline, signing, signing_keys
from tests.support import garbled, registries, signed
from tests.support.registry_proxy import GARBLED


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As many tries as ever, one soon after the other; nothing of this machine's logins."""
    monkeypatch.setattr(signing, "PAUSES", tuple(0.05 for _ in signing.PAUSES))
    monkeypatch.setattr(pipeline, "PAUSES", tuple(0.05 for _ in pipeline.PAUSES))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))


@pytest.mark.parametrize("kind", ["noise", "half-head", "no-headers", "cut-answer"])
def test_a_release_through_a_proxy_that_garbles(tmp_path: Path, kind: str) -> None:
    assert garbled.release(tmp_path, kind) == []


def test_signing_through_a_proxy_that_garbles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "PAUSES", (0.01,) * 10)  # cosign meets one at a time
    checkout = signed.project(tmp_path / "checkout")
    signing_keys.init(checkout)
    for number, kind in enumerate((*GARBLED, "cut-answer", "digest")):
        with registries.running(tmp_path / kind) as registry:
            garbled.sign(registry.address, checkout, tmp_path / f"{kind}-layouts", kind, referrers=bool(number % 2))
