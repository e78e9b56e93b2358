"""Requests that every phase must serve, from a client outside to a provider and back."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from tests.support.stack import Checkout


def chat(model: str, text: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def events(response: Any) -> list[tuple[float, Any]]:
    """Server-sent events with the second at which each came; ``[DONE]`` stays text."""
    found = []
    for line in response:
        data = line.decode().strip()
        if data.startswith("data: "):
            text = data.removeprefix("data: ")
            found.append((time.monotonic(), text if text == "[DONE]" else json.loads(text)))
    return found


def through_the_cli(copy: Checkout) -> None:
    """Client, API, claude-proxy, the real CLI, a Messages API; and the whole way back, with real token counts."""
    word = secrets.token_hex(6)
    status, body, headers = copy.ask("POST", "/v1/chat/completions", chat("max/sonnet", f"say {word}"))
    assert status == 200, body
    assert word in body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] > 0 < body["usage"]["completion_tokens"]
    assert headers["x-llm-call-upstream"] == "claude-proxy"
    assert headers["x-request-id"]


def streamed_through_the_cli(copy: Checkout) -> None:
    """The same as a stream: the text comes in several pieces, spread over time, and ends as OpenAI's streams do."""
    word = secrets.token_hex(6)
    question = chat("max/opus", f"[[gap=0.2]] one two three {word}", stream=True)
    with copy.request("POST", "/v1/chat/completions", question) as response:
        assert response.status == 200
        assert response.getheader("content-type", "").startswith("text/event-stream")
        found = events(response)
    assert found[-1][1] == "[DONE]"
    deltas = [(when, event["choices"][0]["delta"].get("content")) for when, event in found[:-1] if event["choices"]]
    pieces = [(when, text) for when, text in deltas if text]
    assert word in "".join(text for _, text in pieces)
    assert len(pieces) >= 2
    assert pieces[-1][0] - pieces[0][0] > 0.1  # a buffered answer would arrive all at once


def cached_in_redis(copy: Checkout) -> None:
    """A deterministic request is asked once: the second answer comes from Redis, and the upstream was not called again."""
    question = chat("openai/gpt-test", f"cache {secrets.token_hex(6)}", temperature=0)
    before = keys_in_redis(copy)
    first = copy.ask("POST", "/v1/chat/completions", question)
    second = copy.ask("POST", "/v1/chat/completions", question)
    third = copy.ask("POST", "/v1/chat/completions", question, **{"cache-control": "no-store"})
    assert [answer[0] for answer in (first, second, third)] == [200, 200, 200], first[1]
    assert [answer[2]["x-llm-call-cache"] for answer in (first, second, third)] == ["miss", "hit", "off"]
    assert first[1] == second[1]
    assert keys_in_redis(copy) == before + 1


def keys_in_redis(copy: Checkout) -> int:
    output = copy.docker("exec", copy.container("redis"), "redis-cli", "dbsize")
    return int(output.strip().split()[-1])


def turned_away_without_a_key(copy: Checkout) -> None:
    status, body, _ = copy.ask("POST", "/v1/chat/completions", chat("max/opus", "hi"), authorization="Bearer wrong")
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def healthy(copy: Checkout) -> None:
    status, body, _ = copy.ask("GET", "/health")
    assert (status, body["status"]) == (200, "ok"), body
