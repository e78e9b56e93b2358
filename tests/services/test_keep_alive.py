"""No open stream is silent for long: comments while a request waits, is tried again or has a tool at work; real sockets."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from serving.event_stream import COMMENT
from tests.services.test_gateway_routing import MODELS, gateway
from tests.support import claude_proxy_process
from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import Proxy
from tests.support.service import Service, chat, double, wait_until

CHAT = "/v1/chat/completions"
SECONDS = "0.2"
LONG = 1.2
"""Of silence: six times as long as a stream may be silent."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Service]:
    with double() as service:
        yield service


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, upstream: Service) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    path.write_text(MODELS.format(first=upstream.port, second=upstream.port))
    return path


@pytest.fixture(scope="module")
def api(models: Path) -> Iterator[Service]:
    with gateway(models, LLM_CALL_KEEP_ALIVE_SECONDS=SECONDS) as service:
        yield service


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    settings = {"CLAUDE_PROXY_CLI": str(install(folder / "claude")), "ANTHROPIC_API_KEY": secrets.token_hex()}
    settings |= {"CLAUDE_PROXY_KEEP_ALIVE_SECONDS": SECONDS, "CLAUDE_PROXY_MAX_PROCESSES": "1"}
    settings["CLAUDE_PROXY_QUEUE_SECONDS"] = "60"
    with claude_proxy_process.running(folder, settings) as proxy:
        yield proxy


def streamed(api: Service, **fields: Any) -> tuple[int, bytes, Any]:
    return api.post(CHAT, chat("one", "hello", stream=True, **fields))


def without(body: bytes) -> bytes:
    """The stream as it would be without comments, of which each stood between two events."""
    events = [each for each in body.split(b"\n\n") if each]
    assert all(each == COMMENT.strip() or each.startswith(b"data: ") for each in events)
    return b"".join(each + b"\n\n" for each in events if each != COMMENT.strip())


def commented(response: http.client.HTTPResponse, count: int) -> bytes:
    """Read until there were so many comments; return what came."""
    came = b""
    while came.count(COMMENT) < count:
        line = response.readline()
        assert line, came
        came += line
    return came


@pytest.mark.parametrize(
    "wish",
    [{}, {"held": 1}, {"status": 503, "first": 2}, {"status": 429, "first": 3}],
    ids=["before the first token", "between tokens", "tried again", "falls back"],
)
def test_an_open_stream_says_something_all_the_time(api: Service, upstream: Service, wish: dict[str, Any]) -> None:
    name = secrets.token_hex(4)
    question = chat("one", "hello", stream=True, x_double={"name": name, "hold": name, **wish})
    with closing(api.open("POST", CHAT, json.dumps(question).encode())) as response:
        came = commented(response, 3)
        upstream.get(f"/release/{name}")
        body = came + response.read()
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
    assert without(body).replace(b'"model": "two"', b'"model": "one"') == streamed(api)[1]


def test_failures_that_are_fast_keep_their_status(api: Service) -> None:
    assert streamed(api, x_double={"status": 400})[0] == 400
    assert api.post(CHAT, chat("none", stream=True))[0] == 404


def test_failures_that_are_slow_are_events_that_clients_raise(api: Service) -> None:
    late = {"x_double": {"status": 400, "delay": 2 * LONG, "message": "not so"}}
    with OpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.APIError, match="not so") as caught:
            list(client.chat.completions.create(model="one", messages=HELLO, stream=True, extra_body=late))
        assert not isinstance(caught.value, openai.APIStatusError)
        assert caught.value.code == "wished"
    shown = api.get("/metrics")[1].decode()
    assert re.search(r'^llm_call_requests_total\{model="one",status="400".*\} [1-9]', shown, re.MULTILINE)


HELLO: list[Any] = [{"role": "user", "content": "hello there"}]


def test_the_official_client_does_not_notice_comments(api: Service) -> None:
    slow = {"x_double": {"delay": LONG, "gap": LONG / 3}}
    with (
        OpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="x", max_retries=0) as client,
        client.chat.completions.create(model="one", messages=HELLO, stream=True, extra_body=slow) as stream,
    ):
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: hello there "


def test_plain_requests_have_none(api: Service) -> None:
    status, body, headers = api.post(CHAT, chat("one", "hello", x_double={"delay": LONG}))
    assert (status, headers["content-type"], "choices" in body) == (200, "application/json", True)


def test_comments_end_when_the_client_leaves(api: Service, upstream: Service) -> None:
    before = upstream.get("/count")[1]["abandoned"]
    question = json.dumps(chat("one", stream=True, x_double={"chunks": 1000, "gap": 0.5})).encode()
    with closing(api.open("POST", CHAT, question)) as response:
        while response.readline() != COMMENT.splitlines(keepends=True)[0]:
            pass
    wait_until(lambda: upstream.get("/count")[1]["abandoned"] == before + 1, "the upstream to notice")
    wait_until(lambda: "in_flight 1.0" in api.get("/metrics")[1].decode(), "nothing left under way")
    assert "Traceback" not in api.output


@pytest.mark.parametrize("include_usage", [True, False])
def test_tokens_are_counted_whether_the_client_asks_or_not(
    api: Service, upstream: Service, include_usage: bool
) -> None:
    """And the client's bytes are those that the upstream sends who asks as the client did."""
    question = chat("one", f"count {include_usage}", stream=True)
    if include_usage:
        question["stream_options"] = {"include_usage": True}
    before = tokens(api)
    assert api.post(CHAT, question)[1] == upstream.post(CHAT, {**question, "model": "one"})[1]
    assert tokens(api) - before == 5


@pytest.mark.parametrize("wish", [{"refuse": "stream_options"}, {"silent": True}, {"chunks": 9, "cut": 4}])
def test_tokens_are_guessed_where_the_upstream_tells_none(models: Path, wish: dict[str, Any]) -> None:
    with gateway(models) as api:
        assert streamed(api, x_double=wish)[0] == 200
        assert tokens(api, "_estimated") > 0
        assert tokens(api) == 0


def tokens(api: Service, suffix: str = "") -> float:
    shown = api.get("/metrics")[1].decode()
    found = re.findall(
        rf'^llm_call_tokens_total{{kind="(?:prompt|completion){suffix}",.*}} (\S+)$', shown, re.MULTILINE
    )
    return sum(map(float, found))


def raw(proxy: Proxy, text: str) -> bytes:
    return proxy.chat(text, stream=True).body


def test_the_claude_proxy_says_something_while_a_tool_works(proxy: Proxy) -> None:
    body = raw(proxy, f"slow {2 * LONG}")
    first, second = body.index(b'"soon '), body.index(b'"enough"')
    assert body[first:second].count(COMMENT) >= 2
    assert COMMENT not in body[second:]
    without(body)


def test_the_claude_proxy_says_something_while_a_request_waits_for_a_cli(proxy: Proxy) -> None:
    holds = proxy.open_stream("hang")
    with closing(holds):
        assert next(holds.events())
        waits = proxy.open_stream("and me")
        came = commented(waits.response, 2)
    with closing(waits):
        assert b"data: " not in came
        assert b"you said and" in waits.response.read()


def test_what_fails_late_at_the_claude_proxy_tells_its_status_in_the_event(tmp_path: Path) -> None:
    """By which the gateway in front of it asks again or elsewhere, as it does by a status."""
    settings = {"CLAUDE_PROXY_CLI": str(install(tmp_path / "claude")), "ANTHROPIC_API_KEY": secrets.token_hex()}
    settings |= {"CLAUDE_PROXY_KEEP_ALIVE_SECONDS": SECONDS, "CLAUDE_PROXY_MAX_PROCESSES": "1"}
    settings |= {"CLAUDE_PROXY_QUEUE_SECONDS": str(2 * LONG)}
    with claude_proxy_process.running(tmp_path, settings) as proxy:
        holds = proxy.open_stream("hang")
        try:
            assert next(holds.events())
            answer = proxy.chat("no room", stream=True)
        finally:
            holds.close()
    assert answer.status == 200
    error = json.loads(re.findall(rb"data: (.*)", answer.body)[-1])["error"]
    assert (error["code"], error["status"]) == ("claude_proxy_busy", 429)


def test_a_client_of_the_claude_proxy_that_reads_nothing_gets_no_pile(proxy: Proxy) -> None:
    body = claude_proxy_process.question("hang", stream=True)
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        )
        wait_until(lambda: client.recv(1 << 16, socket.MSG_PEEK).count(COMMENT) >= 2, "comments")
        threading.Event().wait(float(SECONDS))
    wait_until(lambda: not proxy.descendants(), "the CLI to end")
    assert "Traceback" not in proxy.log.read_text()
