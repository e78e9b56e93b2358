"""Keys, sessions, credentials, metrics and CLIs started ahead; the CLI is a double, see tests/support."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import ROOT, Proxy, question, running
from tests.support.service import wait_until

WORKER, PLAIN = "sk-worker-of-this-test", "sk-plain-of-this-test"
Start = Callable[..., AbstractContextManager[Proxy]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    cli = install(tmp_path / "fake-claude")

    def begin(**settings: str) -> AbstractContextManager[Proxy]:
        return running(tmp_path, {"CLAUDE_PROXY_CLI": str(cli), "ANTHROPIC_API_KEY": "sk-any", **settings})

    return begin


def keys(folder: Path, **options: str) -> str:
    """A file of keys, by their tokens' names above."""
    tokens = {"worker": WORKER, "plain": PLAIN}
    lines = [f"{name}:{hashlib.sha256(tokens[name].encode()).hexdigest()} {text}" for name, text in options.items()]
    (folder / "keys").write_text("\n".join(lines))
    return str(folder / "keys")


def mcp_file(folder: Path) -> str:
    (folder / "mcp.toml").write_text('[docs]\ncommand = "/bin/cat"\n[other]\ntype = "http"\nurl = "http://a/mcp"\n')
    return str(folder / "mcp.toml")


def described(proxy: Proxy, **fields: Any) -> dict[str, Any]:
    """What the CLI of a request was given."""
    answer = proxy.chat("describe", **fields)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.text)
    return found


@contextmanager
def egress(status: int, document: dict[str, Any]) -> Iterator[str]:
    """A gateway that answers GET /health like this; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(document).encode()
            self.send_response(status if self.path == "/health" else 500)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_tools_and_servers_follow_the_key(start: Start, tmp_path: Path) -> None:
    file = keys(tmp_path, worker="tools=Bash,Read mcp=docs", plain="")
    with start(CLAUDE_PROXY_KEYS_FILE=file, CLAUDE_PROXY_MCP_FILE=mcp_file(tmp_path)) as proxy:
        argv = described(proxy, key=PLAIN)["argv"]
        assert argv[argv.index("--tools") + 1] == ""
        assert "--allowedTools" not in argv
        seen = described(proxy, key=WORKER, mcp_servers=["docs"])
        argv = seen["argv"]
        assert argv[argv.index("--tools") + 1] == "Bash,Read"
        assert argv[argv.index("--allowedTools") + 1] == "Bash,Read,mcp__docs"
        docs = {"mcpServers": {"docs": {"type": "stdio", "command": "/bin/cat"}}}
        assert json.loads(seen["files"]["--mcp-config"]) == docs
        for fields in ({"claude_tools": ["Write"]}, {"mcp_servers": ["other"]}, {"mcp_servers": ["nowhere"]}):
            refused = proxy.chat("hello", key=WORKER, **fields)
            assert (refused.status, refused.code) == (403, "not_allowed_for_key")
        assert proxy.chat("hello", key=PLAIN, claude_tools=["Read"]).status == 403
        assert proxy.chat("hello", key=WORKER, mcpServers={"x": {"command": "/bin/sh"}}).status == 400
        assert proxy.chat("hello", key=WORKER, tools=[{"type": "function", "function": {"name": "f"}}]).status == 400


def test_wrong_options_of_keys_and_servers_are_told_at_the_start(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "CLAUDE_PROXY_WORKSPACE": str(tmp_path / "w")}
    argv = [sys.executable, "-m", "claude_proxy", "--port", "0"]

    def faults(**more: str) -> list[str]:
        result = subprocess.run(argv, env={**env, **more}, capture_output=True, text=True, timeout=30, check=False)
        assert result.returncode == 78
        return result.stderr.splitlines()

    (fault,) = faults(CLAUDE_PROXY_KEYS_FILE=keys(tmp_path, worker="tools=Reed"))
    assert "/keys:1: " in fault
    assert 'perhaps you meant "Read"' in fault
    (tmp_path / "mcp.toml").write_text('[docs]\ncommand = "docs"\n[more]\nurl = 7\n')
    told = faults(CLAUDE_PROXY_MCP_FILE=str(tmp_path / "mcp.toml"))
    assert len(told) == 3
    assert all("CLAUDE_PROXY_MCP_FILE: " in line for line in told)


def test_a_session_goes_on_and_belongs_to_one_key(start: Start, tmp_path: Path) -> None:
    with start(CLAUDE_PROXY_KEYS_FILE=keys(tmp_path, worker="", plain="")) as proxy:
        first = proxy.chat("hello", key=WORKER, session_id="s")
        assert (first.json()["session_id"], first.json()["session_turns"]) == ("s", 2)
        seen = described(proxy, key=WORKER, session_id="s")
        lines = [json.loads(line)["message"] for line in seen["files"]["--resume"].splitlines()]
        assert [line["content"][0]["text"] for line in lines] == ["hello", "you said hello"]
        assert "--resume" not in described(proxy, key=PLAIN, session_id="s")["argv"]
        # The gateway asks with one key for many clients, and says for whom.
        body = question("hello", session_id="s")
        for client, turns in (("hub", 2), ("spoke", 2), ("hub", 4)):
            headers = {"Authorization": f"Bearer {WORKER}", "x-llm-call-client": client}
            answer = proxy.request("POST", "/v1/chat/completions", body, headers)
            assert answer.json()["session_turns"] == turns
        again = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
        refused = proxy.chat("", key=WORKER, session_id="s", messages=again)
        assert (refused.status, refused.code) == (400, "session_exists")
        stream = proxy.open_stream("hello", key=WORKER, session_id="s")
        events = list(stream.events())
        stream.close()
        assert (events[-2]["session_id"], events[-2]["session_turns"]) == ("s", 6)


def test_a_session_answers_one_request_at_a_time_and_survives_a_restart(start: Start) -> None:
    with start() as proxy:
        stream = proxy.open_stream("hang", session_id="s")
        next(stream.events())
        busy = proxy.chat("hello", session_id="s")
        assert (busy.status, busy.code) == (409, "session_busy")
        assert proxy.chat("hello", session_id="t").status == 200
        stream.close()
        wait_until(lambda: proxy.chat("hello", session_id="s").status == 200, "the session did not come free")
    with start() as proxy:
        assert proxy.chat("hello", session_id="s").json()["session_turns"] == 4


def test_the_gateways_health_is_the_credentials(start: Start) -> None:
    states = {
        (200, True): ("ok", ""),
        (200, False): ("failed", "secrets/egress/anthropic_api_key"),
        (404, None): ("ok", ""),
        (502, None): ("failed", "answers 502"),
    }
    for (status, credential), (state, words) in states.items():
        document = {"status": "ok"} if credential is None else {"status": "ok", "credential": credential}
        with (
            egress(status, document) as url,
            start(CLAUDE_PROXY_CREDENTIAL="egress", ANTHROPIC_API_KEY="", ANTHROPIC_BASE_URL=url) as proxy,
        ):
            found = proxy.request("GET", "/health/ready").json()["dependencies"]["claude-credential"]
            assert found["state"] == state
            assert words in found.get("reason", "")
            env = described(proxy)["env"]
            assert re.fullmatch(r"run-[\w-]{43}", env["ANTHROPIC_API_KEY"])
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", env["ANTHROPIC_BASE_URL"])
            assert env["ANTHROPIC_BASE_URL"] != url


def test_a_gateway_that_is_not_there_is_named(start: Start) -> None:
    with start(
        CLAUDE_PROXY_CREDENTIAL="egress", ANTHROPIC_API_KEY="", ANTHROPIC_BASE_URL="http://127.0.0.1:9"
    ) as proxy:
        found = proxy.request("GET", "/health/ready").json()
        assert found["status"] == "degraded"
        assert "127.0.0.1:9 cannot be reached" in found["dependencies"]["claude-credential"]["reason"]


def test_a_login_folder_is_the_clis_own_and_writable(start: Start, tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.mkdir()
    with start(CLAUDE_PROXY_LOGIN_FOLDER=str(login), ANTHROPIC_API_KEY="") as proxy:
        ready = proxy.request("GET", "/health/ready").json()["dependencies"]["claude-credential"]
        assert "no login in" in ready["reason"]
        seen = described(proxy)
        assert seen["env"]["CLAUDE_CONFIG_DIR"] == str(login)
        assert "--bare" not in seen["argv"]
        tried = json.loads(proxy.chat("attempt " + json.dumps([["write", f"{login}/.credentials.json"]])).text)
        assert tried == ["done"]
    assert (login / ".credentials.json").read_text() == "written"


def test_figures_of_the_calls(start: Start) -> None:
    with start(CLAUDE_PROXY_DEADLINE="4", CLAUDE_PROXY_MAX_PROCESSES="1", CLAUDE_PROXY_QUEUE="0") as proxy:
        assert proxy.chat("hello").json()["usage"]["cost_usd"] == 0.25
        wait_until(lambda: proxy.metric("claude_proxy_cli_running ") == 0, "the slot does not come free")
        stream = proxy.open_stream("hang", model="claude-opus-9")
        next(stream.events())
        assert proxy.metric("claude_proxy_cli_running ") == 1
        assert proxy.chat("hello").status == 429
        list(stream.events())
        stream.close()
        wait_until(lambda: proxy.metric("claude_proxy_cli_running ") == 0, "the slot does not come free")
        assert proxy.chat("crash").status == 502
        count = 'claude_proxy_requests_total{{model="{}",outcome="{}"}}'.format
        wait_until(lambda: proxy.metric(count("sonnet", "failed")) == 1, "the crash does not count")
        assert proxy.metric(count("sonnet", "ok")) == 1
        assert proxy.metric(count("sonnet", "refused")) == 1
        assert proxy.metric(count("full-name", "deadline")) == 1
        assert proxy.metric('claude_proxy_cost_usd_total{model="sonnet"}') == 0.25
        assert proxy.metric('claude_proxy_tokens_total{kind="input",model="sonnet"}') == 3
        assert proxy.metric('claude_proxy_first_token_seconds_count{model="sonnet",start="cold"}') == 1
        wait_until(lambda: proxy.metric("claude_proxy_cli_running ") == 0, "the slot does not come free")
        stream = proxy.open_stream("hang")
        next(stream.events())
        stream.close()
        wait_until(lambda: proxy.metric(count("sonnet", "disconnected")) == 1, "who left does not count")


def waiting(proxy: Proxy) -> bool:
    return proxy.metric("claude_proxy_cli_ahead ") == 1


def test_a_cli_that_was_started_ahead_serves_one_request(start: Start) -> None:
    with start(CLAUDE_PROXY_PRESTART="1") as proxy:
        seen = []
        for number in range(3):
            wait_until(lambda: waiting(proxy), "no CLI waits")
            (ready,) = proxy.folders()
            seen.append(described(proxy, model="opus", messages=told(f"rule {number}")))
            assert str(ready) in seen[-1]["cwd"]
            assert seen[-1]["controls"] == [
                {"subtype": "initialize", "systemPrompt": f"rule {number}"},
                {"subtype": "set_model", "model": "opus"},
            ]
        assert len({each["pid"] for each in seen}) == len({each["cwd"] for each in seen}) == 3
        assert proxy.metric('claude_proxy_cli_starts_total{start="ahead"}') == 3


def told(system: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": "describe"}]


def test_what_a_cli_has_to_know_at_its_start_takes_a_new_one(start: Start) -> None:
    with start(CLAUDE_PROXY_PRESTART="1") as proxy:
        wait_until(lambda: waiting(proxy), "no CLI waits")
        assert described(proxy, max_tokens=5)["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "5"
        assert waiting(proxy)
        assert proxy.metric('claude_proxy_cli_starts_total{start="cold"}') == 1


def test_one_that_ended_while_it_waited_is_not_taken(start: Start) -> None:
    with start(CLAUDE_PROXY_PRESTART="1") as proxy:
        wait_until(lambda: waiting(proxy), "no CLI waits")
        (keeper,) = [pid for pid in proxy.descendants() if children(pid)]
        os.kill(children(keeper)[0], signal.SIGKILL)
        wait_until(lambda: proxy.descendants() == {}, "the keeper does not end")
        assert described(proxy)["controls"] == []
        wait_until(lambda: waiting(proxy) and len(proxy.folders()) == 1, "nothing took its place")


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_that_waited_too_long_is_replaced(start: Start) -> None:
    with start(CLAUDE_PROXY_PRESTART="1", CLAUDE_PROXY_PRESTART_SECONDS="1") as proxy:
        wait_until(lambda: waiting(proxy), "no CLI waits")
        (before,) = proxy.folders()
        wait_until(lambda: before not in proxy.folders(), "the old one stays")
        wait_until(lambda: waiting(proxy), "nothing took its place")
        assert proxy.chat("hello").status == 200


def test_the_end_leaves_no_cli_that_was_started_ahead(start: Start) -> None:
    with start(CLAUDE_PROXY_PRESTART="2") as proxy:
        wait_until(lambda: proxy.metric("claude_proxy_cli_ahead ") == 2, "no CLIs wait")
        processes = proxy.descendants()
        assert len(processes) == 4
        assert proxy.stop() == 0
        # Whose parent ended first are killed, and wait for another parent to take note.
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "a CLI is left")
        assert list(proxy.workspace.iterdir()) == []
