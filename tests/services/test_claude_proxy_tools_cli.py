"""Tools, MCP servers and sessions with the real Claude CLI; see test_claude_proxy_cli.py for what it needs."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.claude_proxy_process import ROOT, Proxy, messages_api, running, said
from tests.support.service import wait_until

pytestmark = pytest.mark.cli

WORKER, READER = "sk-worker-of-this-test", "sk-reader-of-this-test"


@pytest.fixture(scope="module")
def api() -> Iterator[int]:
    with messages_api() as port:
        yield port


@pytest.fixture(scope="module")
def proxy(api: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    found = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    assert found, "no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH"
    folder = tmp_path_factory.mktemp("proxy")
    tools = "Bash,Edit,Glob,Grep,NotebookEdit,Read,Task,WebFetch,WebSearch,Write"
    keys = {WORKER: f"worker:%s tools={tools} mcp=docs", READER: "reader:%s tools=Read"}
    lines = [line % hashlib.sha256(key.encode()).hexdigest() for key, line in keys.items()]
    (folder / "keys").write_text("\n".join(lines))
    server = ROOT / "tests/support/mcp_server.py"
    entry = {"command": sys.executable, "args": ["-I", str(server)], "env": {"WORD": "lighthouse"}}
    (folder / "mcp.json").write_text(json.dumps({"docs": entry}))
    settings = {
        "CLAUDE_PROXY_CLI": found,
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api}",
        "ANTHROPIC_API_KEY": "sk-any",
        "CLAUDE_PROXY_KEYS_FILE": str(folder / "keys"),
        "CLAUDE_PROXY_MCP_FILE": str(folder / "mcp.json"),
        "CLAUDE_PROXY_READABLE": f"{sys.base_prefix}:{sys.prefix}:{server}",
    }
    with running(folder, settings) as proxy:
        yield proxy


def asked(api: int) -> dict[str, Any]:
    """The body that the CLI sent to the Messages API at last."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=10)
    connection.request("GET", "/last")
    document: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return dict(document["body"])


def used(proxy: Proxy, tool: str, key: str = WORKER, **given: Any) -> str:
    """What a tool said to the model."""
    answer = proxy.chat(f"[[tool={tool} {json.dumps(given)}]]", key=key)
    assert answer.status == 200, answer.body
    return answer.text.removeprefix("using it\n\nthe tool said: ")


def test_the_known_tools_are_those_of_this_cli(proxy: Proxy, api: int) -> None:
    assert proxy.chat("hello", key=WORKER).status == 200
    offered = {tool["name"] for tool in asked(api)["tools"]}
    # This version calls the tool for sub-agents by its newer name on the wire.
    expected = {"Bash", "Edit", "Glob", "Grep", "NotebookEdit", "Read", "WebFetch", "WebSearch", "Write"}
    assert offered - {"Agent", "Task"} == expected
    assert offered & {"Agent", "Task"}


def test_a_key_has_its_tools_and_a_request_may_ask_for_less(proxy: Proxy, api: int) -> None:
    assert proxy.chat("hello", key=READER).status == 200
    assert [tool["name"] for tool in asked(api)["tools"]] == ["Read"]
    assert proxy.chat("hello", key=READER, claude_tools=[]).status == 200
    assert asked(api)["tools"] == []
    refused = proxy.chat("hello", key=READER, claude_tools=["Bash"])
    assert (refused.status, refused.code) == (403, "not_allowed_for_key")


def test_tools_work_in_the_requests_folder_and_nowhere_else(proxy: Proxy) -> None:
    assert used(proxy, "Bash", command="echo hello >notes && cat notes && pwd").startswith("hello\n/")
    assert "Permission denied" in used(proxy, "Bash", command=f"ls {proxy.workspace}")
    assert "Permission denied" in used(proxy, "Bash", command=f"cat /proc/{proxy.process.pid}/environ")
    assert "not permitted" in used(proxy, "Bash", command=f"kill -9 {proxy.process.pid}")
    assert "not permitted" in used(proxy, "Bash", command=f"kill -9 {proxy.launcher()}")
    assert "Permission denied" in used(proxy, "Bash", command=f"echo x >/dev/tcp/127.0.0.1/{proxy.port}")
    assert "root:" in used(proxy, "Read", key=READER, file_path="/etc/passwd")
    assert "root:" not in used(proxy, "Read", key=READER, file_path=str(proxy.log))
    assert "No files found" in used(proxy, "Grep", pattern="nothing like it", path=".")


def test_a_tool_that_goes_on_in_the_background_ends_with_the_answer(proxy: Proxy) -> None:
    used(proxy, "Bash", command="setsid nohup sleep 600 >/dev/null 2>&1 & echo started")
    wait_until(lambda: proxy.descendants() == {}, "what the tool started is still there")


def test_a_stream_with_a_tool_is_one_text(proxy: Proxy) -> None:
    question = '[[tool=Bash {"command": "echo hi"}]]'
    plain = proxy.chat(question, key=WORKER)
    stream = proxy.open_stream(question, key=WORKER)
    events = list(stream.events())
    stream.close()
    assert events[-1] == "[DONE]"
    assert said(events) == plain.text == "using it\n\nthe tool said: hi"
    assert plain.json()["usage"]["cost_usd"] > 0


def test_an_mcp_server_of_the_list_serves_who_may_use_it(proxy: Proxy) -> None:
    question = '[[tool=mcp__docs__lookup {"word": "pharos"}]]'
    answer = proxy.chat(question, key=WORKER, mcp_servers=["docs"], claude_tools=[])
    assert answer.text == "using it\n\nthe tool said: pharos means lighthouse"
    assert "lighthouse" not in proxy.chat(question, key=WORKER, claude_tools=[]).text
    assert proxy.chat("hello", key=READER, mcp_servers=["docs"]).status == 403


def test_a_session_goes_on_with_only_the_new_message(proxy: Proxy, api: int) -> None:
    first = proxy.chat("one [[say=answered]]", key=READER, session_id="a-1")
    assert (first.json()["session_id"], first.json()["session_turns"]) == ("a-1", 2)
    second = proxy.chat("two", key=READER, session_id="a-1")
    assert second.json()["session_turns"] == 4
    texts = [block["text"] for message in asked(api)["messages"] for block in message["content"] if "text" in block]
    assert [text for text in texts if not text.startswith("<system-reminder>")] == [
        "one [[say=answered]]",
        "answered",
        "two",
    ]


def test_a_session_remembers_what_its_tools_said(proxy: Proxy, api: int) -> None:
    used = proxy.chat('[[tool=Bash {"command": "echo from the tool"}]]', key=WORKER, session_id="tools")
    assert used.json()["session_turns"] == 4
    assert proxy.chat("and then?", key=WORKER, session_id="tools", claude_tools=[]).status == 200
    sent = json.dumps(asked(api)["messages"])
    assert '"tool_use"' in sent
    assert "from the tool" in sent
