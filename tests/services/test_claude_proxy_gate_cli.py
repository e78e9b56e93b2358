"""The gate with the real Claude CLI: one request is one model, and its tools get no further; see test_claude_proxy_cli.py."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gate_client import Stack, gated

pytestmark = pytest.mark.cli

#: What a tool tries with the token and the address that it finds in its environment.
SCRIPT = """
import json, os, sys, urllib.error, urllib.request
headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "content-type": "application/json"}
def ask(base, model):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(base + "/v1/messages", body, headers), timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(getattr(error, "reason", error))
gate = os.environ["ANTHROPIC_BASE_URL"]
print(json.dumps([ask(gate, model) for model in sys.argv[2:]] + [ask(sys.argv[1], "claude-opus-5-5")]))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    found = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    assert found, "no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH"
    readable = f"{sys.base_prefix}:{sys.prefix}"
    with gated(tmp_path_factory.mktemp("gate"), CLAUDE_PROXY_CLI=found, CLAUDE_PROXY_READABLE=readable) as stack:
        yield stack


def used(stack: Stack, key: str, asked: str, tool: str, **given: Any) -> str:
    """What a tool said to the model that was asked."""
    answer = stack.proxy.chat(f"[[tool={tool} {json.dumps(given)}]]", key=f"sk-{key}", model=asked)
    assert answer.status == 200, answer.body
    return answer.text.removeprefix("using it\n\nthe tool said: ")


@pytest.mark.parametrize(
    ("model", "wire"),
    [
        ("max/haiku", r"claude-haiku-\d+-\d+"),
        ("max/sonnet", r"claude-sonnet-\d+-\d+"),
        ("max/opus", r"claude-opus-\d+-\d+"),
        ("max/claude-opus-4-1", "claude-opus-4-1"),
        ("max/claude-opus-4-1[1m]", "claude-opus-4-1"),
        ("max/claude-haiku-4-5-20251001", "claude-haiku-4-5-20251001"),
    ],
)
def test_every_name_of_a_model_passes_the_gate(stack: Stack, model: str, wire: str) -> None:
    answer = stack.proxy.chat("[[gap=0]] hello", key="sk-agent", model=model)
    assert answer.status == 200, answer.body
    seen = stack.last()
    assert re.fullmatch(wire, seen["body"]["model"])
    assert ("context-1m" in seen["headers"]["anthropic-beta"]) == model.endswith("[1m]")


def test_a_tool_has_the_model_of_its_request_and_no_other_way(stack: Stack) -> None:
    # A marker of the double holds no brackets.
    script = base64.b64encode(SCRIPT.encode()).decode()
    command = f"echo {script} | base64 -d >try.py && {shlex.quote(sys.executable)} try.py"
    command += f" http://127.0.0.1:{stack.provider} claude-haiku-5-5 claude-opus-5-5 claude-sonnet-5-5"
    found = used(stack, "worker", "max/haiku", "Bash", command=command)
    assert json.loads(found) == [200, 403, 403, "[Errno 13] Permission denied"]


def test_sub_agents_use_the_model_of_the_request(stack: Stack) -> None:
    given = {"description": "a", "prompt": "hello there", "subagent_type": "general-purpose", "model": "opus"}
    before, refused = stack.served(), stack.proxy.metric('claude_proxy_model_calls_total{outcome="model"}')
    used(stack, "agent", "max/haiku", "Task", **given)
    assert stack.served() >= before + 3
    assert stack.proxy.metric('claude_proxy_model_calls_total{outcome="model"}') == refused


def test_the_providers_search_is_for_keys_with_the_tool(stack: Stack) -> None:
    before = stack.served()
    used(stack, "agent", "max/sonnet", "WebSearch", query="cats and dogs")
    assert stack.served() == before + 3


def test_a_cli_gets_by_with_its_calls_when_the_provider_fails(stack: Stack) -> None:
    for trouble, status in (("status=529", 502), ("status=500", 502), ("cut", 200), ("error", 200)):
        answer = stack.proxy.chat(f"[[{trouble}]] hello", key="sk-plain", model="max/haiku")
        assert answer.status in (status, 503), (trouble, answer.body)
    assert stack.proxy.metric('claude_proxy_model_calls_total{outcome="calls"}') == 0
