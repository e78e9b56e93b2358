"""600 verifications of a registry that answers by dice, always the same ones: a verdict or an error in words, in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import fuzz_verify, hostile_registry


def test_many_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with hostile_registry.release(tmp_path) as release, fuzz_verify.quick():
        rounds = fuzz_verify.Rounds(release)
        for seed in range(10_000, 10_600):
            rounds.once(seed)
    assert sum(rounds.ends.values()) == 600
    assert {end.partition(": ")[2] for end in rounds.ends} >= {"good", "VerificationFailed", "RegistryFailed"}
