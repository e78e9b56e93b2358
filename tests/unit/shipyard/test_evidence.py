"""What attestations must say."""

from __future__ import annotations

from typing import Any

import pytest

from shipyard import evidence

SBOM: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "serialNumber": "urn:uuid:1",
    "metadata": {"component": {"version": "1.2.3"}},
    "components": [{"name": "libc6"}],
}
PROVENANCE: dict[str, Any] = {
    "buildDefinition": {
        "buildType": "https://b",
        "externalParameters": {"version": "1.2.3"},
        "resolvedDependencies": [{"digest": {"sha256": "1"}}, {"digest": {"gitCommit": "abc"}}],
    },
    "runDetails": {"builder": {"id": "https://builder"}},
}


def test_what_is_right() -> None:
    assert list(evidence.sbom_problems(SBOM, "urn:uuid:1", ("1.2.3", "1.2.3-cuda"))) == []
    assert list(evidence.provenance_problems(PROVENANCE, "1.2.3", "abc")) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"specVersion": "1.5"}, "is no CycloneDX 1.6 document"),
        ({"serialNumber": "urn:uuid:2"}, "that of another image"),
        ({"components": []}, "lists no component"),
        ({"components": "libc6"}, "lists no component"),
        ({"metadata": None}, "describes None"),
    ],
)
def test_an_sbom(change: dict[str, Any], problem: str) -> None:
    (found,) = evidence.sbom_problems({**SBOM, **change}, "urn:uuid:1", ("1.2.3",))
    assert problem in found


def test_a_provenance_without_anything_names_every_problem() -> None:
    found = list(evidence.provenance_problems({}, "1.2.3", "abc"))
    assert len(found) == 4
    assert "names the commit none, the image's label says abc" in found
    assert list(evidence.provenance_problems(PROVENANCE, "1.2.3", "")) != []
