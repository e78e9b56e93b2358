from __future__ import annotations

from pathlib import Path

import pytest

from claude_proxy.settings import PLACEHOLDER, Settings, read
from serving.settings import Env, SettingsError


def test_defaults() -> None:
    assert read(Env({"CLAUDE_PROXY_MAX_PROCESSES": "4"}), memory=4 << 30) == Settings()


def test_a_credential_comes_from_its_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    credential = read(Env({"CLAUDE_CODE_OAUTH_TOKEN_FILE": str(token)})).credential
    assert credential is not None
    assert (credential.variable, credential.value.reveal()) == ("CLAUDE_CODE_OAUTH_TOKEN", "abc")
    assert "abc" not in repr(credential)


def test_the_egress_gateway_holds_the_credential_and_nobody_else() -> None:
    settings = read(Env({"CLAUDE_PROXY_CREDENTIAL": "egress", "ANTHROPIC_BASE_URL": "http://egress:8080"}))
    assert settings.egress
    assert settings.credential is not None
    assert settings.credential.variable == "ANTHROPIC_API_KEY"
    assert settings.credential.value.reveal() == PLACEHOLDER
    with pytest.raises(SettingsError) as caught:
        read(Env({"CLAUDE_PROXY_CREDENTIAL": "egress", "ANTHROPIC_API_KEY_FILE": "/run/secrets/key"}))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"]


@pytest.mark.parametrize("other", [{"ANTHROPIC_API_KEY": "sk"}, {"CLAUDE_CODE_OAUTH_TOKEN_FILE": "/token"}])
def test_a_login_folder_stands_alone(other: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="CLAUDE_PROXY_LOGIN_FOLDER: is set beside"):
        read(Env({"CLAUDE_PROXY_LOGIN_FOLDER": "/login", **other}))


def test_how_many_run_at_once_depends_on_the_memory() -> None:
    assert read(Env({}), memory=4 << 30).max_processes == 16
    assert read(Env({"CLAUDE_PROXY_MAX_PROCESSES": "3"}), memory=4 << 30).max_processes == 3


def test_what_a_request_may_use_depends_on_the_memory_and_can_be_set() -> None:
    assert [read(Env({}), memory=each << 20).bounds.memory >> 20 for each in (256, 1024, 2048, 65_536)] == [
        512,
        512,
        1024,
        1280,
    ]
    names = ("PIDS", "MEMORY_BYTES", "DISK_BYTES")
    chosen = read(Env({f"CLAUDE_PROXY_REQUEST_{name}": str(1 << 30) for name in names[1:]}))
    assert (chosen.bounds.memory, chosen.bounds.disk) == (1 << 30, 1 << 30)
    with pytest.raises(SettingsError) as caught:
        read(Env({f"CLAUDE_PROXY_REQUEST_{name}": "8" for name in names}))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [f"CLAUDE_PROXY_REQUEST_{n}" for n in names]


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
        "CLAUDE_PROXY_SANDBOX": "off",
        "CLAUDE_PROXY_READABLE": "opt",
        "CLAUDE_PROXY_LOGIN_FOLDER": "login",
        "CLAUDE_PROXY_CREDENTIAL": "vault",
    }
    with pytest.raises(SettingsError) as caught:
        read(Env(wrong))
    assert len(caught.value.faults) == 10
