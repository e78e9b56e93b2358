"""Requests that every phase must serve, from a client outside to a provider and back."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

from tests.support.service import wait_until
from tests.support.stack import Checkout, served

Path = Callable[[Checkout], None]

#: Tries to connect from inside a container: prints "connected", or the name of what stood in the way.
CONNECT = (
    "import socket,sys\n"
    "try: socket.create_connection((sys.argv[1],int(sys.argv[2])),2); print('connected')\n"
    "except OSError as e: print(type(e).__name__, e)"
)


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
    """What Redis itself counts, asked as the user that monitoring has."""
    (password,) = json.loads((copy.root / "secrets/redis-exporter/redis_passwords.json").read_text()).values()
    words = ("redis-cli", "--no-auth-warning", "--user", "exporter", "--pass", password, "info", "keyspace")
    found = re.search(r"db0:keys=(\d+)", copy.docker("exec", copy.container("redis"), *words))
    return int(found[1]) if found else 0


def through_an_upstream(copy: Checkout) -> None:
    """Client, API, a provider that speaks OpenAI's wire."""
    status, body, headers = copy.ask("POST", "/v1/chat/completions", chat("openai/gpt-test", "hi"))
    assert (status, headers.get("x-llm-call-upstream")) == (200, "openai"), body


def through_a_local_model(copy: Checkout) -> None:
    """Client, API, a real llama-server with a tiny model."""
    status, body, headers = copy.ask("POST", "/v1/chat/completions", chat("ollama/tiny", "hi", max_tokens=8))
    assert (status, headers.get("x-llm-call-upstream")) == (200, "ollama"), body
    assert body["usage"]["completion_tokens"] > 0


def logged_and_measured(copy: Checkout) -> None:
    """A request leaves one line with its id in the API's log, and counts in its metrics."""
    word = secrets.token_hex(8)
    assert copy.ask("POST", "/v1/chat/completions", chat("openai/gpt-test", "hi"), **{"x-request-id": word})[0] == 200
    lines = [line for line in copy.invoke("logs", "--service", "llm-call-api").stdout.splitlines() if word in line]
    assert len(lines) == 1, lines
    assert json.loads(lines[0][lines[0].index("{") :])["status"] == 200
    with copy.request("GET", "/metrics") as response:
        text = response.read().decode()
    assert re.search(r'llm_call_requests_total\{[^}]*upstream="openai"[^}]*\} [1-9]', text)


def turned_away_without_a_key(copy: Checkout) -> None:
    status, body, _ = copy.ask("POST", "/v1/chat/completions", chat("max/opus", "hi"), authorization="Bearer wrong")
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def healthy(copy: Checkout) -> None:
    """The API and all that it depends on; its own question to Redis waits for a quarter of a second only."""

    def ok() -> bool:
        status, body, _ = copy.ask("GET", "/health")
        return bool((status, body["status"]) == (200, "ok"))

    wait_until(ok, "/health: ok")


def reach(copy: Checkout, service: str, host: str, port: int) -> str:
    """What comes of connecting from a service's container, outside of any sandbox of its own."""
    return copy.docker("exec", copy.container(service), "python3", "-c", CONNECT, host, str(port)).strip()


def published(copy: Checkout) -> set[str]:
    """The services with a port of the host, but for the tests' own doubles."""
    found = {each["service"] for each in copy.json("status")["services"] if each.get("ports")}
    return found - {"openai-upstream", "llama-server"}


def debugger_answers(copy: Checkout) -> bool:
    """Whether an adapter at the published port answers the first request of the Debug Adapter Protocol."""
    hello = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "test"}})
    try:
        with socket.create_connection(("127.0.0.1", copy.ports["LLM_CALL_DEBUGGER_PORT"]), timeout=5) as client:
            client.sendall(f"Content-Length: {len(hello)}\r\n\r\n{hello}".encode())
            return client.recv(15) == b"Content-Length:"
    except OSError:
        return False


def nothing_left(copy: Checkout) -> None:
    """After `down`: no container, network, process or socket of this checkout; its volumes are kept."""
    label = f"label=com.docker.compose.project={copy.project}"
    assert copy.containers(stopped=True) == []
    assert copy.docker("network", "ls", "--quiet", "--filter", label).split() == []
    assert copy.docker("volume", "ls", "--quiet", "--filter", label).split() != []
    assert copy.json("status")["services"] == []
    for port in ("LLM_CALL_API_PORT", "CLAUDE_PROXY_PORT", "REDIS_PORT", "LLM_CALL_DEBUGGER_PORT"):
        assert not served(copy.ports[port]), port
    there = []
    for place in Folder("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            there += [place] if place.readlink().is_relative_to(copy.root) else []
    assert there == []
    assert not (copy.root / ".shipyard/api/api.sock").exists()


#: Every path that a request can take, in every phase.
EVERY = (
    healthy,
    through_the_cli,
    streamed_through_the_cli,
    through_an_upstream,
    through_a_local_model,
    cached_in_redis,
    turned_away_without_a_key,
    logged_and_measured,
)
