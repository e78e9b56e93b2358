"""What the API needs on the host is what its container is given, at the host's places."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shipyard import config, host_api


def test_places_of_the_container_become_places_of_the_host(tmp_path: Path) -> None:
    project = dataclasses.replace(config.load(Path(__file__).parents[3]), root=tmp_path)
    given = {
        "LLM_CALL_KEYS_FILE": "/run/secrets/api_keys",
        "REDIS_URL": "redis://redis:6379/0",
        "UPSTREAM_CLAUDE_PROXY_BASE_URL": "http://claude-proxy:3010/v1",
        "UPSTREAM_OPENAI_BASE_URL": "",
        "ENABLE_RL_ROUTING": "true",
    }
    found = host_api.environment(project, given, {6379: 16379, 3010: 13010})
    assert found["LLM_CALL_KEYS_FILE"] == f"{tmp_path}/secrets/api/api_keys"
    assert found["REDIS_URL"] == "redis://127.0.0.1:16379/0"
    assert found["UPSTREAM_CLAUDE_PROXY_BASE_URL"] == "http://127.0.0.1:13010/v1"
    assert found["UPSTREAM_OPENAI_BASE_URL"] == ""
    assert found["ENABLE_RL_ROUTING"] == "true"
    assert found["LLM_CALL_SOCKET"] == f"{tmp_path}/.shipyard/api/api.sock"
    assert found["PYTHONPATH"] == f"{tmp_path}/src"
    assert found["UPSTREAM_OLLAMA_BASE_URL"] == "http://127.0.0.1:11434/v1"  # the host's own
    found = host_api.environment(project, given, {6379: 16379, 3010: 13010, 11434: 21434})
    assert found["UPSTREAM_OLLAMA_BASE_URL"] == "http://127.0.0.1:21434/v1"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", ""),
        ("sh", ""),
        ("/bin/sh", ""),
        ("no-such-llama-server", 'there is no program "no-such-llama-server" on PATH'),
        ("bin/llama-server", '"bin/llama-server" is no absolute path'),
        ("./llama-server", '"./llama-server" is no absolute path'),
        ("/nope", "/nope does not exist"),
        ("/usr", "/usr is a folder"),
        ("/etc/passwd", "/etc/passwd is not executable"),
    ],
)
def test_the_llama_server_of_the_host_is_looked_at(value: str, problem: str) -> None:
    found = [(each.place, each.problem) for each in host_api.faults({"HOST_LLM_CALL_LLAMA_SERVER": value})]
    assert found == ([(".env: HOST_LLM_CALL_LLAMA_SERVER", problem)] if problem else [])
    assert host_api.faults({}) == []
