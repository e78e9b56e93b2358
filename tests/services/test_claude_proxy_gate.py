"""The gate at work: what a tool of one request can have of the provider, and that it stalls nobody on the way there."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.claude_proxy_process import question
from tests.support.gate_client import MODEL, Run, Stack, gated
from tests.support.messages_api import Server
from tests.support.service import wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with gated(tmp_path_factory.mktemp("gate")) as stack:
        yield stack


def kind(answer: tuple[int, object]) -> tuple[int, str]:
    """The status and the type of an error, in Anthropic's shape."""
    status, document = answer
    assert isinstance(document, dict)
    assert document["type"] == "error"
    assert document["error"]["message"]
    return status, document["error"]["type"]


def test_a_tool_uses_the_model_of_its_request_and_no_other(stack: Stack) -> None:
    with stack.run() as run:
        before = stack.served()
        assert run.ask()[0] == 200
        for _ in range(20):
            for model in ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-x", "claude-haiku-4-5"):
                assert kind(run.ask(model=model)) == (403, "permission_error")
        twice = json.dumps({"model": MODEL, "messages": []}).encode()[:-1] + b',"model":"claude-opus-5-5"}'
        assert kind(run.send(twice)) == (400, "invalid_request_error")
        assert kind(run.ask(Model="claude-opus-5-5")) == (403, "permission_error")
        assert kind(run.ask(fallbacks=[{"model": "claude-opus-5-5"}])) == (403, "permission_error")
        assert kind(run.ask(tools=[{"type": "web_search_20250305", "name": "web_search"}])) == (403, "permission_error")
        assert stack.served() == before + 1
    with stack.run("searcher") as run:
        assert run.ask(tools=[{"type": "web_search_20250305", "name": "web_search"}])[0] == 200


def test_what_a_tool_asks_counts_against_its_request(stack: Stack) -> None:
    with stack.run("few") as run:
        before = stack.served()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            statuses = sorted(status for status, _ in pool.map(lambda _: run.ask(), range(20)))
        assert statuses == [200] * 3 + [429] * 17
        assert stack.served() == before + 3
        status, document = run.ask()
        assert kind((status, document)) == (429, "rate_limit_error")
        assert "3 calls" in document["error"]["message"]
        assert "CLAUDE_PROXY_REQUEST_CALLS" in document["error"]["message"]
    with stack.run("few") as run:  # the next request has its own
        assert run.ask()[0] == 200
    with stack.run("plain") as run:
        statuses = [run.ask()[0] for _ in range(12)]
        assert statuses == [200] * 8 + [429] * 4  # twice three attempts of the CLI, and two more


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_counted_as_the_provider_says(stack: Stack, stream: bool) -> None:
    before = stack.proxy.metric("claude_proxy_model_tokens_total ")
    with stack.run("small") as run:
        assert run.ask("[[gap=0 say=" + "x" * 200 + "]]", stream=stream)[0] == 200
        status, document = run.ask(stream=stream)
        assert kind((status, document)) == (429, "rate_limit_error")
        assert "CLAUDE_PROXY_REQUEST_TOKENS" in document["error"]["message"]
    wait_until(lambda: stack.proxy.metric("claude_proxy_model_tokens_total ") - before > 50, "the tokens of the call")
    assert stack.proxy.metric('claude_proxy_model_calls_total{outcome="tokens"}') > 0


def test_a_token_lives_as_long_as_its_request(stack: Stack) -> None:
    with stack.run() as first, stack.run() as second:
        assert first.token != second.token
        assert len(first.token) > 40
        open_ = first.connect()
        open_.sendall(first.head(1000))
        assert second.ask()[0] == 200
        unknown = Run(first.host, first.port, "run-" + "x" * 43)
        assert kind(unknown.ask()) == (401, "authentication_error")
        assert kind(Run(first.host, first.port, "").ask()) == (401, "authentication_error")
        assert kind(Run(first.host, first.port, "held-by-the-egress-gateway").ask()) == (401, "authentication_error")
    wait_until(lambda: _refused(first), "the end of the first token")
    wait_until(lambda: _refused(second), "the end of the second token")
    assert _cut_off(open_)  # what the request left open


def _refused(run: Run) -> bool:
    """Whether its token is worth nothing by now; a call that goes on at its end is cut off."""
    try:
        return bool(run.ask()[0] == 401)
    except (OSError, http.client.HTTPException):
        return False


def _cut_off(client: socket.socket) -> bool:
    """Whether the gate ended this connection without an answer."""
    with client:
        try:
            return client.recv(10) == b""
        except ConnectionResetError:
            return True


def test_an_answer_under_way_ends_with_its_request(stack: Stack) -> None:
    before = stack.served()
    with stack.run() as run:
        client = run.connect()
        body = json.dumps(
            {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "[[hang]]"}]}
        ).encode()
        client.sendall(run.head(len(body)) + body)
        wait_until(lambda: stack.served() == before + 1, "the call")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    while not _cut_off(client.dup()):
        pass
    client.close()


def test_a_cli_that_waits_has_a_token_without_rights(tmp_path: Path) -> None:
    with gated(tmp_path, CLAUDE_PROXY_PRESTART="1") as stack:
        wait_until(lambda: stack.proxy.metric("claude_proxy_cli_ahead ") == 1, "a CLI that waits")
        (environ,) = [
            text
            for pid in stack.proxy.descendants()
            if (text := Path(f"/proc/{pid}/environ").read_bytes()) and b"ANTHROPIC_API_KEY=" in text
        ]
        env = dict(each.split("=", 1) for each in environ.decode().split("\0") if each)
        host, _, port = env["ANTHROPIC_BASE_URL"].removeprefix("http://").partition(":")
        spare = Run(host, int(port), env["ANTHROPIC_API_KEY"])
        assert kind(spare.ask()) == (401, "authentication_error")
        with stack.run("plain") as run:
            assert run.token == spare.token
            assert spare.ask()[0] == 200


def test_the_way_from_the_sandbox_leads_to_the_gate_alone(stack: Stack) -> None:
    with stack.run() as other:
        wanted = [["connect", str(stack.provider)], ["connect", str(other.port)], ["connect", str(stack.proxy.port)]]
        answer = stack.proxy.chat("attempt " + json.dumps(wanted), key="sk-worker", model="max/haiku")
        assert json.loads(answer.text) == ["PermissionError", "done", "PermissionError"]
        wait_until(lambda: stack.proxy.metric("claude_proxy_cli_running ") == 1, "the end of the other request")
        # Tokens are in the environment of the CLI: not to be read by another request, nor in the gate's memory.
        gate = stack.proxy.gate()
        pids = [gate, *stack.proxy.descendants()]
        wanted = [["read", f"/proc/{pid}/{name}"] for pid in pids for name in ("environ", "mem", "maps")]
        answer = stack.proxy.chat("attempt " + json.dumps(wanted), key="sk-worker", model="max/haiku")
        assert set(json.loads(answer.text)) == {"PermissionError"}


def test_only_exact_requests_pass(stack: Stack) -> None:
    with stack.run() as run:
        before = stack.served()
        good = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}).encode()
        smuggled = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
        head = run.head(len(good))
        odd = {
            "chunked and a length": head[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
            "two lengths": head[:-2] + b"content-length: 0\r\n\r\n" + good + smuggled,
            "a folded line": head[:-2] + b"x-api-key:\r\n run-x\r\n\r\n" + good,
            "an absolute URI": head.replace(b"/v1/messages", b"http://127.0.0.1/v1/messages") + good,
            "CONNECT": b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nhost: 127.0.0.1:9\r\n\r\n",
            "an upgrade": head[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n" + good,
            "TLS": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            "another path": head.replace(b"/v1/messages", b"/v1/models") + good,
        }
        for name, content in odd.items():
            answer = run.raw(content)
            assert answer.startswith(b"HTTP/1.1 4"), (name, answer)
            assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)
            assert b"connection: close" in answer, name
        assert run.raw(head.replace(b"\r\n", b"\n") + good) == b""  # no end of a head, as far as the gate can see
        assert stack.served() == before
        # One after the other on one connection is allowed: each is answered in its turn.
        answer = run.raw(head + good + head[:-2] + b"connection: close\r\n\r\n" + good)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert stack.served() == before + 2


def test_what_is_sent_on_is_what_was_read(stack: Stack) -> None:
    with stack.run() as run:
        body = (
            b'{ "model":"%b",  "messages":[{"role":"user","content":"\\u0068\\u00e9llo \xc3\xa9"}] }' % MODEL.encode()
        )
        more = {"anthropic-beta": "one,context-1m-2025-08-07", "cookie": "c", "x-forwarded-for": "1.2.3.4"}
        assert run.send(body, **more)[0] == 200
        seen = stack.last()
        assert seen["headers"]["content-length"] == str(len(body))
        assert seen["headers"]["accept-encoding"] == "identity"
        assert seen["headers"]["anthropic-beta"] == "one"
        assert not {"cookie", "x-forwarded-for"} & set(seen["headers"])
        assert seen["credentials"] == []  # no token of ours leaves
        assert run.send(body, "/v1/messages/count_tokens")[1] == {"input_tokens": pytest.approx(10, abs=9)}


def test_events_pass_as_they_come(stack: Stack) -> None:
    """What the provider said is here while it says nothing more: a gate that collects would keep it."""
    with stack.run() as run, run.connect() as client:
        text = "[[hang]] hello and good morning"
        body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
        client.sendall(run.head(len(body)) + body)
        said = b""
        while said.count(b"event: content_block_delta") < 2:
            chunk = client.recv(65536)
            assert chunk
            said += chunk
        assert b"message_delta" not in said


def test_an_error_of_the_provider_passes(stack: Stack) -> None:
    with stack.run() as run:
        status, document = run.ask("[[status=529]]")
        assert kind((status, document)) == (529, "overloaded_error")
        status, events = run.ask("[[cut]]", stream=True)
        assert b"content_block_delta" in events
        assert b"message_delta" not in events


def test_an_unfinished_body_is_given_up_soon(stack: Stack) -> None:
    with stack.run() as run, run.connect() as client:
        started = time.monotonic()
        client.sendall(run.head(1000) + b"{")
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 20


def test_a_cli_that_used_all_its_calls_tells_its_client(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "greedy"
    script.write_text(GREEDY)
    script.chmod(0o755)
    (tmp_path / "stack").mkdir()
    with gated(
        tmp_path / "stack", CLAUDE_PROXY_CLI=str(script), CLAUDE_PROXY_READABLE=f"{sys.base_prefix}:{sys.prefix}"
    ) as other:
        answer = other.proxy.request(
            "POST", "/v1/chat/completions", question("hi", model="max/haiku"), {"Authorization": "Bearer sk-few"}
        )
        assert (answer.status, answer.code) == (400, "claude_out_of_calls")
        assert "calls=" in answer.json()["error"]["message"]


# Asks until it is refused, and says so as the CLI does.
GREEDY = f"""#!{sys.executable} -IS
import json, os, sys, urllib.error, urllib.request
if "--version" in sys.argv:
    sys.exit(print("0.0.1 (greedy)"))
body = json.dumps({{"model": "{MODEL}", "messages": [{{"role": "user", "content": "x"}}]}}).encode()
headers = {{"x-api-key": os.environ["ANTHROPIC_API_KEY"], "content-type": "application/json"}}
try:
    while True:
        urllib.request.urlopen(urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", body, headers))
except urllib.error.HTTPError as error:
    print(json.dumps({{"type": "system", "subtype": "api_retry", "error_status": error.code, "retry_delay_ms": 500}}))
"""


def test_the_gate_comes_back_with_what_was_left(stack: Stack) -> None:
    with stack.run("few") as run:
        assert [run.ask()[0] for _ in range(2)] == [200, 200]
        gate = stack.proxy.gate()
        os.kill(gate, signal.SIGKILL)
        # Connections wait until another one takes them.
        assert [run.ask()[0] for _ in range(3)] == [200, 429, 429]
        assert stack.proxy.request("GET", "/health/ready").json()["dependencies"]["gate"]["state"] == "ok"


def test_the_end_of_the_proxy_is_the_end_of_the_gate(tmp_path: Path) -> None:
    with gated(tmp_path) as stack:
        gate = stack.proxy.gate()
        stack.proxy.process.kill()
        stack.proxy.process.wait(10)
        wait_until(lambda: not Path(f"/proc/{gate}").exists(), "the end of the gate")


def test_others_do_not_feel_an_attack(stack: Stack) -> None:
    """Unfinished bodies, silence, and slow reading, of a run and without a token, while another run asks as usual."""
    with stack.run() as attacker, stack.run() as victim:
        usual = statistics.median(victim.seconds() for _ in range(15))
        clients: list[socket.socket] = []
        try:
            for number in range(600):
                client = attacker.connect()
                clients.append(client)
                client.sendall((attacker.head(100_000), attacker.head(9, "run-unknown"), b"", b"POST /v1")[number % 4])
            under = statistics.median(victim.seconds() for _ in range(15))
        finally:
            for client in clients:
                client.close()
    assert under < 1.5 * usual, f"{under:.3f} s instead of {usual:.3f} s"


def test_a_run_has_so_many_connections_and_no_more(stack: Stack) -> None:
    with stack.run() as run:
        clients = [run.connect() for _ in range(70)]
        try:
            for client in clients:
                client.sendall(run.head(1000) + b"{")
            refused = []
            for client in clients:
                client.settimeout(10)
                refused.append(client.recv(12))
            assert refused.count(b"HTTP/1.1 429") == 6
            assert refused.count(b"HTTP/1.1 408") == 64
        finally:
            for client in clients:
                client.close()


def test_a_provider_that_comes_back_at_once_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with gated(tmp_path, ANTHROPIC_BASE_URL=f"http://127.0.0.1:{port}") as stack, stack.run() as run:
        assert kind(run.ask()) == (503, "api_error")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asking = pool.submit(run.ask)
            wait_until(lambda: stack.proxy.metric('claude_proxy_model_calls_total{outcome="passed"}') == 2, "the call")
            with Server("127.0.0.1", port) as provider:
                threading.Thread(target=provider.serve_forever, args=(0.01,)).start()
                try:
                    assert asking.result()[0] == 200
                finally:
                    provider.shutdown()
