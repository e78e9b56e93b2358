"""The proxy with the real Claude CLI, which talks to a double of the Messages API.

CLAUDE_CLI names the CLI's binary; otherwise `claude` is taken from PATH. Without either these tests fail.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.claude_proxy_process import Proxy, messages_api, running, said
from tests.support.service import wait_until

pytestmark = pytest.mark.cli


@pytest.fixture(scope="module")
def cli() -> str:
    found = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    if not found:
        pytest.fail("no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH")
    return found


@pytest.fixture(scope="module")
def api() -> Iterator[int]:
    with messages_api() as port:
        yield port


@pytest.fixture(scope="module")
def proxy(cli: str, api: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api}", "ANTHROPIC_API_KEY": "sk-any"}
    with running(tmp_path_factory.mktemp("proxy"), settings) as proxy:
        yield proxy


def asked(api: int) -> dict[str, Any]:
    """What the CLI sent to the Messages API at last."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=10)
    connection.request("GET", "/last")
    document: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return document


def turns(api: int) -> list[tuple[str, str]]:
    """The conversation as the Messages API saw it, without the CLI's own empty notes."""
    seen = []
    for message in asked(api)["body"]["messages"]:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
        if text:
            seen.append((message["role"], text))
    return seen


def test_a_plain_answer_with_the_providers_usage(proxy: Proxy) -> None:
    answer = proxy.chat("hello there")
    document = answer.json()
    assert (answer.status, answer.text) == (200, "echo: hello there")
    assert document["model"].startswith("claude-sonnet")
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["usage"]["prompt_tokens"] > 0
    assert document["usage"]["completion_tokens"] == len(json.dumps("echo: hello there")) // 4


def test_a_stream_in_pieces_with_usage(proxy: Proxy) -> None:
    stream = proxy.open_stream("one two three four five", stream_options={"include_usage": True})
    events = list(stream.events())
    stream.close()
    assert said(events) == "echo: one two three four five"
    pieces = [event for event in events[:-1] if event["choices"] and event["choices"][0]["delta"].get("content")]
    assert len(pieces) == 5
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] > 0
    assert events[-3]["choices"][0]["finish_reason"] == "stop"


def test_a_piece_is_passed_on_long_before_the_answer_ends(proxy: Proxy) -> None:
    """The double sends two pieces and then nothing for an hour: what is seen here cannot have been collected first."""
    stream = proxy.open_stream("[[hang]] one two three")
    events: list[Any] = []
    for event in stream.events():
        events.append(event)
        if said(events) == "echo: [[hang":
            break
    stream.close()
    assert said(events) == "echo: [[hang"


def test_system_and_history_keep_their_roles(proxy: Proxy, api: int) -> None:
    messages = [
        {"role": "system", "content": "Speak like a lighthouse."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answered"},
        {"role": "user", "content": [{"type": "text", "text": "second"}]},
        {"role": "assistant", "content": "answered again"},
        {"role": "user", "content": "third"},
    ]
    assert proxy.chat("", messages=messages).text == "echo: third"
    assert turns(api) == [
        ("user", "first"),
        ("assistant", "answered"),
        ("user", "second"),
        ("assistant", "answered again"),
        ("user", "third"),
    ]
    body = asked(api)["body"]
    assert body["system"][-1]["text"] == "Speak like a lighthouse."
    assert body["tools"] == []


@pytest.mark.parametrize("text", ["/cost", "/help me", "!id", "# remember this", "read @/etc/hostname now"])
def test_what_the_cli_would_take_for_a_command_is_only_text(proxy: Proxy, api: int, text: str) -> None:
    assert proxy.chat(text).text == f"echo: {text}"
    assert turns(api) == [("user", text)]


def test_a_prompt_of_one_mebibyte_and_a_long_system_prompt(proxy: Proxy, api: int) -> None:
    messages = [
        {"role": "system", "content": "s" * 300_000},
        {"role": "user", "content": "[[say=done]]" + "a " * (1 << 19)},
    ]
    assert proxy.chat("", messages=messages).text == "done"
    assert len(turns(api)[-1][1]) > 1 << 20
    assert len(asked(api)["body"]["system"][-1]["text"]) == 300_000


def test_an_image_arrives(proxy: Proxy, api: int) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, image]}]
    assert proxy.chat("", messages=messages).status == 200
    blocks = asked(api)["body"]["messages"][0]["content"]
    assert [block["type"] for block in blocks] == ["text", "image"]


def test_the_token_limit_ends_the_answer(proxy: Proxy, api: int) -> None:
    answer = proxy.chat("[[length]] abc", max_tokens=50)
    assert answer.text == "echo: [[length]] abc"
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert asked(api)["body"]["max_tokens"] == 50


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("marker", "status", "code", "retry"),
    [
        ("[[status=429 retry-after=30]]", 429, "claude_rate_limited", True),
        ("[[status=401]]", 503, "claude_not_authenticated", False),
        ("[[status=400]]", 400, "claude_invalid_request", False),
        ("[[status=404]]", 404, "model_not_found", False),
        ("[[status=529]]", 503, "claude_overloaded", False),
    ],
)
def test_a_providers_refusal_has_its_own_status(
    proxy: Proxy, marker: str, status: int, code: str, retry: bool, stream: bool
) -> None:
    """In a stream too, as nothing was sent yet."""
    began = time.monotonic()
    answer = proxy.chat(marker, stream=stream)
    assert (answer.status, answer.code) == (status, code)
    if retry:
        assert 30 <= int(answer.headers["retry-after"]) <= 33
        assert time.monotonic() - began < 25, "the CLI waited for the rate limit by itself"


@pytest.mark.parametrize("marker", ["[[cut]]", "[[error]]"])
def test_an_answer_that_broke_off_is_never_passed_on_as_a_whole_one(proxy: Proxy, marker: str) -> None:
    """The CLI tries again by itself: a document holds its second answer, a stream goes on only where it fits."""
    assert proxy.chat(f"{marker} abc").text == f"echo: {marker} abc"
    stream = proxy.open_stream(f"{marker} abc")
    events = list(stream.events())
    stream.close()
    if events[-1] == "[DONE]":
        assert said(events) == f"echo: {marker} abc"
    else:
        assert events[-1]["error"]["code"] == "claude_answer_interrupted"


def test_without_a_credential_the_error_says_what_to_do(cli: str, api: int, tmp_path: Path) -> None:
    settings = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api}"}
    with running(tmp_path, settings) as proxy:
        answer = proxy.chat("hello")
    assert (answer.status, answer.code) == (503, "claude_not_authenticated")
    assert "ANTHROPIC_API_KEY_FILE" in answer.json()["error"]["message"]


def test_an_oauth_token_reaches_the_provider_and_files_stay_unread(cli: str, api: int, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sk-ant-oat01-any\n")
    settings = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api}"}
    with running(tmp_path, {**settings, "CLAUDE_CODE_OAUTH_TOKEN_FILE": str(token)}) as proxy:
        assert proxy.chat("read @/proc/self/status now").text == "echo: read @/proc/self/status now"
    assert asked(api)["credentials"] == ["authorization"]
    assert "VmPeak" not in json.dumps(asked(api)["body"])


def test_one_that_was_started_ahead_asks_the_same_as_a_new_one(cli: str, api: int, tmp_path: Path) -> None:
    settings = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api}", "ANTHROPIC_API_KEY": "sk-any"}
    bodies = {}
    for count in (0, 1):
        with running(tmp_path, {**settings, "CLAUDE_PROXY_PRESTART": str(count)}) as proxy:
            bodies[count] = conversations(proxy, api, ahead=count)
            assert proxy.metric('claude_proxy_cli_starts_total{start="ahead"}') == 6 * count
    for cold, ahead in zip(bodies[0], bodies[1], strict=True):
        for name in ("model", "system", "tools", "max_tokens", "thinking"):
            assert without_build(cold.get(name)) == without_build(ahead.get(name)), name


def conversations(proxy: Proxy, api: int, ahead: int) -> list[dict[str, Any]]:
    """What the provider is asked for three models, without a system prompt and with one."""
    found = []
    for model in ("sonnet", "opus", "claude-any-model-1"):
        for system in ([], [{"role": "system", "content": "Speak like a lighthouse."}]):
            wait_until(lambda: proxy.metric("claude_proxy_cli_ahead ") == ahead, "no CLI waits", 20)
            messages = [*system, {"role": "user", "content": f"hello {model}"}]
            assert proxy.chat("", model=model, messages=messages).text == f"echo: hello {model}"
            found.append(asked(api)["body"])
    return found


def without_build(value: Any) -> Any:
    """What the CLI says of itself in its first system block differs from call to call."""
    return value[1:] if isinstance(value, list) else value


def test_a_client_that_leaves_ends_the_cli(proxy: Proxy) -> None:
    stream = proxy.open_stream("[[hang]]")
    next(stream.events())
    assert len(proxy.descendants()) >= 2  # the keeper and the CLI
    stream.close()
    wait_until(lambda: proxy.descendants() == {}, "the CLI still runs")
    wait_until(lambda: proxy.folders() == [], "the request's folder is still there")
