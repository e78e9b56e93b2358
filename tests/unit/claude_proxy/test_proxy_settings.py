from __future__ import annotations

from pathlib import Path

import pytest

from claude_proxy.settings import Settings, read
from serving.settings import Env, SettingsError


def test_defaults() -> None:
    assert read(Env({})) == Settings()


def test_a_credential_comes_from_its_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    credential = read(Env({"CLAUDE_CODE_OAUTH_TOKEN_FILE": str(token)})).credential
    assert credential is not None
    assert (credential.variable, credential.value.reveal()) == ("CLAUDE_CODE_OAUTH_TOKEN", "abc")
    assert "abc" not in repr(credential)


def test_certificates_are_passed_on() -> None:
    assert read(Env({"NODE_EXTRA_CA_CERTS": "/ca.pem", "HOME": "/root"})).passed_on == {
        "NODE_EXTRA_CA_CERTS": "/ca.pem"
    }


def test_every_fault_is_told_at_once() -> None:
    wrong = {
        "ANTHROPIC_BASE_URL": "nowhere",
        "ANTHROPIC_API_KEY": "a",
        "CLAUDE_CODE_OAUTH_TOKEN": "b",
        "CLAUDE_PROXY_WORKSPACE": "here",
        "CLAUDE_PROXY_DEADLINE": "-1",
        "CLAUDE_PROXY_QUEUE": "many",
    }
    with pytest.raises(SettingsError) as caught:
        read(Env(wrong))
    assert len(caught.value.faults) == 5
