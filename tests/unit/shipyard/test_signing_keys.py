"""Where the signing key lies, whose signatures count, and what is wrong with a key before anything is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipyard import signing_keys
from shipyard.commands import cosign
from shipyard.commands.cosign import Identity
from shipyard.errors import SigningFailed
from shipyard.models import Project


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (signing_keys.KEY, signing_keys.PUBLIC, signing_keys.IDENTITY, signing_keys.ISSUER, signing_keys.PASSWORD)
    for name in (*own, *cosign.TOKENS, "GITHUB_WORKFLOW_REF"):
        monkeypatch.delenv(name, raising=False)


def test_a_key_by_default_by_name_and_none(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signing_keys.private(project) == str(project.root / "secrets/signing/cosign.key")
    assert signing_keys.trusted(project) == project.root / "cosign.pub"
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", "token")
    assert signing_keys.private(project) == ""
    monkeypatch.setenv(signing_keys.KEY, "env://K")  # a key that is named comes before a token
    assert (signing_keys.private(project), signing_keys.keyless()) == ("env://K", False)


def test_whose_keyless_signatures_count(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "https://tokens.example")
    with pytest.raises(SigningFailed, match="whose keyless signatures count"):
        signing_keys.trusted(project)
    monkeypatch.setenv("GITHUB_WORKFLOW_REF", "o/r/.github/workflows/release.yml@refs/heads/main")
    job = "https://github.com/o/r/.github/workflows/release.yml@refs/heads/main"
    assert signing_keys.trusted(project) == Identity(job, "https://token.actions.githubusercontent.com")
    monkeypatch.setenv(signing_keys.IDENTITY, "me@example.org")
    with pytest.raises(SigningFailed, match=signing_keys.ISSUER):
        signing_keys.trusted(project)
    monkeypatch.setenv(signing_keys.ISSUER, "https://issuer.example")
    assert signing_keys.trusted(project) == Identity("me@example.org", "https://issuer.example")


def key(project: Project, mode: int = 0o600) -> Path:
    path = project.root / "secrets/signing/cosign.key"
    path.parent.mkdir(parents=True)
    path.write_text("not opened in this test")
    path.chmod(mode)
    return path


def test_no_key(project: Project) -> None:
    (fault,) = signing_keys.faults(project)
    assert "there is no signing key; `invoke signing.init` makes one" in str(fault)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_is_too_open(project: Project, mode: int) -> None:
    path = key(project, mode)
    (fault,) = signing_keys.faults(project)
    assert str(fault).endswith(f"may read or change the signing key; chmod 600 {path}")


def test_a_key_without_its_password_and_public_half(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    key(project)
    monkeypatch.setattr(signing_keys, "program", lambda: "cosign")
    texts = [str(fault) for fault in signing_keys.faults(project)]
    assert ["password" in text for text in texts] == [True, False]
    assert "cosign.pub" in texts[1]


@pytest.mark.parametrize(("name", "problem"), [("env://NOT_SET", "NOT_SET, which is empty"), ("awskms://x", "neither")])
def test_a_name_of_a_key_that_leads_nowhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    monkeypatch.setenv(signing_keys.KEY, name)
    (fault,) = signing_keys.faults(project)
    assert problem in str(fault)
