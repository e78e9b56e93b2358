"""The proxy as a real process, with a CLI that misbehaves in a chosen way. The real CLI: test_claude_proxy_cli.py."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.claude_proxy_process import SECRET, Proxy, Start, alive, gone, said
from tests.support.service import wait_until


def test_the_cli_gets_an_environment_built_from_nothing(start: Start) -> None:
    with start(ANTHROPIC_BASE_URL="http://127.0.0.1:9", SOME_OTHER_SECRET="do not pass on") as proxy:
        seen = json.loads(proxy.chat("describe").text)
    # LC_CTYPE is what the interpreter of the double sets for itself.
    assert set(seen["env"]) - {"LC_CTYPE"} == {
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "CLAUDE_CODE_TMPDIR",
        "CLAUDE_CONFIG_DIR",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "DISABLE_AUTOUPDATER",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "CLAUDE_CODE_DISABLE_ATTACHMENTS",
        "CLAUDE_CODE_DISABLE_FILE_MENTIONS",
        "CLAUDE_CODE_DISABLE_CLAUDE_MDS",
        "CLAUDE_CODE_MAX_RETRIES",
    }
    assert seen["mode"] == "0o700"
    assert seen["group"] is True
    root = str(Path(seen["cwd"]).parent)
    assert all(seen["env"][name].startswith(root) for name in ("HOME", "CLAUDE_CONFIG_DIR", "TMPDIR"))
    assert "describe" not in " ".join(seen["argv"])


def test_a_request_leaves_no_folder_and_no_zombie(proxy: Proxy) -> None:
    for number in range(10):
        assert proxy.chat(f"hello{number}").text == f"you said hello{number}"
    # The answer goes out first, the tidying follows.
    wait_until(lambda: proxy.folders() == [], "a request's folder is still there")
    assert proxy.descendants() == {}
    assert stat.S_IMODE(next(proxy.workspace.glob("proxy-*")).stat().st_mode) == 0o700


def test_a_flood_on_stderr_does_not_block_the_answer(proxy: Proxy) -> None:
    assert proxy.chat("flood").text == "after the flood"


def test_a_crash_is_a_502_and_its_words_stay_in_the_log(proxy: Proxy) -> None:
    answer = proxy.chat("crash")
    assert (answer.status, answer.code) == (502, "claude_cli_crashed")
    assert "exit code 1" in answer.json()["error"]["message"]
    log = proxy.log.read_text()
    assert "the key is [REDACTED]" in log
    assert SECRET not in log + answer.body.decode()


def test_the_deadline_ends_the_whole_call(start: Start, cli: Path) -> None:
    with start(CLAUDE_PROXY_DEADLINE="1") as proxy:
        answer = proxy.chat("hang")
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        assert alive(cli) == []
        assert proxy.folders() == []


def test_the_deadline_ends_a_stream_with_an_error_event(start: Start, cli: Path) -> None:
    with start(CLAUDE_PROXY_DEADLINE="4") as proxy:
        stream = proxy.open_stream("hang")
        events = list(stream.events())
        stream.close()
        assert said(events) == "and then "
        assert events[-1]["error"]["code"] == "deadline_exceeded"
        gone(cli)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_takes_the_whole_group_with_it(proxy: Proxy, cli: Path, stream: bool) -> None:
    """Even when the CLI and its child both ignore SIGTERM."""
    if stream:
        opened = proxy.open_stream("stubborn")
        next(opened.events())
        wait_until(lambda: len(alive(cli)) == 2, "the CLI and its child did not start")
        opened.close()
    else:
        body = b'{"model": "opus", "messages": [{"role": "user", "content": "stubborn"}]}'
        script = "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1])); "
        script += "c.request('POST', '/v1/chat/completions', sys.argv[2]); c.getresponse()"
        client = subprocess.Popen([sys.executable, "-c", script, str(proxy.port), body.decode()])
        wait_until(lambda: len(alive(cli)) == 2, "the CLI and its child did not start")
        client.kill()
        client.wait(10)
    gone(cli)
    wait_until(lambda: proxy.folders() == [], "the request's folder is still there")
    wait_until(lambda: '"disconnected":true' in proxy.log.read_text(), "the log does not say who left")


def test_a_full_house_is_a_429_that_says_when_to_come_back(start: Start, cli: Path) -> None:
    with start(CLAUDE_PROXY_MAX_PROCESSES="1", CLAUDE_PROXY_QUEUE="0") as proxy:
        stream = proxy.open_stream("hang")
        refused = proxy.chat("hello")
        assert (refused.status, refused.code) == (429, "claude_proxy_busy")
        assert int(refused.headers["retry-after"]) > 0
        stream.close()
        gone(cli)
        wait_until(lambda: proxy.chat("hello").status == 200, "the slot did not come back")


def test_a_queue_that_is_too_slow_is_a_429(start: Start) -> None:
    with start(CLAUDE_PROXY_MAX_PROCESSES="1", CLAUDE_PROXY_QUEUE="1", CLAUDE_PROXY_QUEUE_SECONDS="0.2") as proxy:
        stream = proxy.open_stream("hang")
        assert proxy.chat("hello").code == "claude_proxy_busy"
        stream.close()


def test_liveness_answers_while_clis_hang(proxy: Proxy) -> None:
    streams = [proxy.open_stream("hang") for _ in range(4)]
    began = time.monotonic()
    assert proxy.request("GET", "/health/live").status == 200
    assert time.monotonic() - began < 1
    for stream in streams:
        stream.close()


def test_an_answer_that_starts_anew_is_an_error_in_a_stream_and_none_in_a_document(proxy: Proxy) -> None:
    stream = proxy.open_stream("restart")
    events = list(stream.events())
    stream.close()
    assert said(events) == "one "
    assert events[-1]["error"]["code"] == "claude_answer_interrupted"
    assert proxy.chat("restart").text == "three"


def test_the_second_signal_leaves_nothing_running(start: Start, cli: Path) -> None:
    with start(DRAIN_SECONDS="60") as proxy:
        stream = proxy.open_stream("stubborn")
        wait_until(lambda: len(alive(cli)) == 2, "the CLI and its child did not start")
        proxy.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in proxy.log.read_text(), "the proxy does not drain")
        proxy.process.send_signal(signal.SIGTERM)
        proxy.process.wait(4)
        assert alive(cli) == []
        assert list(proxy.workspace.iterdir()) == []
        stream.close()


def test_the_end_of_the_drain_time_leaves_nothing_running(start: Start, cli: Path) -> None:
    with start(DRAIN_SECONDS="0.3") as proxy:
        stream = proxy.open_stream("stubborn")
        wait_until(lambda: len(alive(cli)) == 2, "the CLI and its child did not start")
        assert proxy.stop() == 0
        assert alive(cli) == []
        stream.close()


def test_the_end_of_the_drain_time_is_told(start: Start, cli: Path) -> None:
    with start(DRAIN_SECONDS="0.3") as proxy, concurrent.futures.ThreadPoolExecutor(1) as pool:
        stream = proxy.open_stream("hang")
        events = stream.events()
        next(events)
        plain = pool.submit(proxy.chat, "stubborn")
        wait_until(lambda: len(alive(cli)) == 3, "the second CLI did not start")
        assert proxy.stop() == 0
        assert list(events)[-1]["error"]["code"] == "draining"
        assert (plain.result().status, plain.result().code) == (503, "draining")
        stream.close()


def test_an_idle_proxy_ends_at_once(start: Start) -> None:
    with start() as proxy:
        assert proxy.chat("hello").status == 200
        began = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - began < 2


def test_what_a_killed_proxy_left_is_swept_by_the_next(start: Start, cli: Path) -> None:
    with start() as proxy:
        stream = proxy.open_stream("hang")
        left = proxy.folders()
        proxy.process.kill()
        proxy.process.wait(10)
        assert left[0].exists()
        stream.close()
        for pid in alive(cli):
            os.killpg(pid, signal.SIGKILL)
    with start() as proxy:
        assert not left[0].exists()
        assert proxy.chat("hello").status == 200


def test_a_missing_cli_is_not_ready_and_a_missing_credential_is_degraded(start: Start) -> None:
    with start(CLAUDE_PROXY_CLI="/nonexistent/claude", ANTHROPIC_API_KEY="") as proxy:
        ready = proxy.request("GET", "/health/ready")
        assert ready.status == 503
        assert "CLAUDE_PROXY_CLI" in ready.json()["dependencies"]["claude-cli"]["reason"]
        assert proxy.request("GET", "/health/live").status == 200
        assert proxy.chat("hello").code == "claude_cli_not_started"
    with start(ANTHROPIC_API_KEY="") as proxy:
        ready = proxy.request("GET", "/health/ready")
        assert (ready.status, ready.json()["status"]) == (200, "degraded")
        assert "ANTHROPIC_API_KEY_FILE" in ready.json()["dependencies"]["claude-credential"]["reason"]


def test_keys_guard_the_api_but_not_the_health(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"someone:{hashlib.sha256(b'right').hexdigest()}\n")
    with start(CLAUDE_PROXY_KEYS_FILE=str(keys)) as proxy:
        assert proxy.request("GET", "/v1/models").status == 401
        assert proxy.request("GET", "/v1/models", headers={"Authorization": "Bearer wrong"}).status == 401
        assert proxy.request("GET", "/v1/models", headers={"Authorization": "Bearer right"}).status == 200
        assert proxy.request("GET", "/health/ready").status == 200


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"[]", 400, "object"),
        (b"{}", 400, "messages"),
        (b'{"model": "sonet", "messages": [{"role": "user", "content": "x"}]}', 404, "sonnet"),
        (b'{"model": "--help", "messages": [{"role": "user", "content": "x"}]}', 404, "does not exist"),
        (b'{"model": "opus", "messages": [{"role": "user", "content": 7}]}', 400, "messages[0].content"),
        (b" " * 40_000_000, 413, "33554432 bytes"),
    ],
)
def test_bad_input_is_told_in_openais_shape(proxy: Proxy, body: bytes, status: int, word: str) -> None:
    answer = proxy.request("POST", "/v1/chat/completions", body)
    assert answer.status == status
    assert word in answer.json()["error"]["message"]


def test_wrong_settings_are_all_told_at_once(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    env |= {"CLAUDE_PROXY_DEADLINE": "soon", "CLAUDE_PROXY_MAX_PROCESSES": "0", "ANTHROPIC_BASE_URL": "nowhere"}
    argv = [sys.executable, "-m", "claude_proxy", "--port", "0"]
    result = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 78
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        "ANTHROPIC_BASE_URL",
        "CLAUDE_PROXY_DEADLINE",
        "CLAUDE_PROXY_MAX_PROCESSES",
    ]
