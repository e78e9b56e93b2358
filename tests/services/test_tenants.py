"""Answers are kept and shared within a tenant only, and nobody who shares one waits for another: real sockets, the real Redis."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.services.test_gateway_routing import MODELS
from tests.support.redis_server import Server
from tests.support.service import READY, Service, chat, double, running, wait_until

CHAT = "/v1/chat/completions"
KEYS = {name: secrets.token_urlsafe() for name in ("hub", "spoke", "one", "two", "hub.team")}
OPTIONS = {"one": "tenant=team", "two": "tenant=team"}
ENTRY_BYTES = 1000
"""The smallest window of a shared stream: 128 KiB."""
SLOW = "reader_too_slow"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Service]:
    with double() as service:
        yield service


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path has a limit of 107 bytes
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


def line(name: str, key: str, options: str = "") -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()} {options}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, upstream: Service) -> Path:
    folder = tmp_path_factory.mktemp("tenants")
    (folder / "models.toml").write_text(MODELS.format(first=upstream.port, second=upstream.port))
    (folder / "keys").write_text("".join(line(name, key, OPTIONS.get(name, "")) for name, key in KEYS.items()))
    return folder


def gateway(folder: Path, redis: Server, **env: str) -> AbstractContextManager[Service]:
    settings = {"LLM_CALL_MODELS": str(folder / "models.toml"), "LLM_CALL_KEYS_FILE": str(folder / "keys")}
    settings |= {"REDIS_URL": redis.url, "LLM_CALL_CACHE_ENTRY_BYTES": str(ENTRY_BYTES)}
    return running(["-m", "llm_call.api", "--port", "0"], READY, settings | env)


@pytest.fixture(scope="module")
def api(folder: Path, redis: Server) -> Iterator[Service]:
    with gateway(folder, redis) as service:
        yield service


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def cache(api: Service, name: str, question: Mapping[str, Any]) -> str:
    status, _, headers = api.post(CHAT, question, **bearer(name))
    assert status == 200
    return headers["x-llm-call-cache"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_kept_answer_is_for_the_tenant_that_asked(api: Service, stream: bool) -> None:
    question = chat("one", f"kept {stream}", temperature=0, stream=stream)
    found = [cache(api, name, question) for name in ("hub", "spoke", "hub", "one", "two", "hub.team", "spoke")]
    assert found == ["miss", "miss", "hit", "miss", "hit", "miss", "hit"]


def test_requests_at_the_same_time_are_one_within_a_tenant_only(api: Service, upstream: Service) -> None:
    question = chat("one", "at the same time", temperature=0, x_double={"delay": 0.5})
    before = upstream.get("/count")[1]["requests"]
    found: list[tuple[str, str]] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append((name, cache(api, name, question))))
        for name in ("hub", "hub", "spoke", "spoke", "one", "two")
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert upstream.get("/count")[1]["requests"] == before + 3
    assert sorted(state for _, state in found) == ["hit"] * 3 + ["miss"] * 3
    assert sorted(state for name, state in found if name in ("one", "two")) == ["hit", "miss"]


def test_another_key_of_the_same_name_finds_nothing_and_a_renamed_one_its_own(
    folder: Path, redis: Server, upstream: Service, tmp_path: Path
) -> None:
    question = chat("one", "whose name is it", temperature=0)
    (tmp_path / "models.toml").write_text((folder / "models.toml").read_text())
    old, new = secrets.token_urlsafe(), secrets.token_urlsafe()

    def asked(key: str, keys: str) -> str:
        (tmp_path / "keys").write_text(keys)
        with gateway(tmp_path, redis) as api:
            return api.post(CHAT, question, authorization=f"Bearer {key}")[2]["x-llm-call-cache"]

    assert asked(old, line("name", old)) == "miss"
    assert asked(new, line("name", new)) == "miss"
    assert asked(old, line("other", old)) == "hit"
    assert asked(new, line("new", new, "tenant=name")) == "miss"
    assert asked(old, line("old", old, "tenant=name")) == "hit"


def test_sharing_among_all_is_a_setting(folder: Path, redis: Server) -> None:
    question = chat("one", "shared by all", temperature=0)
    with gateway(folder, redis, LLM_CALL_CACHE_SHARED="true") as api:
        assert [cache(api, name, question) for name in ("hub", "spoke", "one")] == ["miss", "hit", "hit"]
    with gateway(folder, redis) as api:
        assert cache(api, "hub", question) == "miss"


def test_a_reader_that_stops_delays_nobody_who_asks_the_same_stream(api: Service, upstream: Service) -> None:
    """8 MB: more than the window and the kernel's buffers hold. It is told why its own stream ends."""
    chunks, size = 500, 16_000
    # Held after its first chunk: from the window on nobody joins a stream any more.
    wish = {"chunks": chunks, "size": size, "gap": 0.001, "hold": "joined", "held": 1}
    question = chat("one", "a long stream", temperature=0, stream=True, x_double=wish)
    before = upstream.get("/count")[1]["requests"]
    with (
        closing(stopped(api, upstream, question)) as reader,
        api.open("POST", CHAT, encoded(question), bearer("hub")) as other,
    ):
        assert other.headers["x-llm-call-cache"] == "hit"
        upstream.get("/release/joined")
        received = other.read()
        assert received.endswith(b"data: [DONE]\n\n")
        assert received.count(b"x" * size) == chunks
        assert upstream.get("/count")[1]["requests"] == before + 1
        left = b"".join(iter(lambda: reader.recv(1 << 20), b""))
    assert SLOW in json.loads(re.findall(rb"data: (\{.*\})", left)[-1])["error"]["code"]
    assert b"[DONE]" not in left
    assert "Traceback" not in api.output


def test_a_reader_that_stops_delays_nobody_who_asks_for_the_same_document(api: Service, upstream: Service) -> None:
    question = chat("one", "a large document", temperature=0, x_double={"size": 8_000_000, "delay": 0.3})
    before = upstream.get("/count")[1]["requests"]
    with (
        closing(stopped(api, upstream, question)) as reader,
        api.open("POST", CHAT, encoded(question), bearer("hub")) as other,
    ):
        assert len(json.loads(other.read())["choices"][0]["message"]["content"]) > 8_000_000
        assert upstream.get("/count")[1]["requests"] == before + 1
        left = b"".join(iter(lambda: reader.recv(1 << 20), b""))
    assert left.endswith(b"}")  # its own copy was kept for it


def test_a_reader_that_stops_is_waited_for_where_nobody_else_asks(api: Service, upstream: Service) -> None:
    """Memory stays bounded: what nobody takes is not asked of the upstream, and nothing is lost."""
    chunks, size = 400, 64_000
    question = chat("one", "nobody else", temperature=0, stream=True, x_double={"chunks": chunks, "size": size})
    with closing(stopped(api, upstream, question)) as reader:
        before = resident(api)
        wait_until(lambda: upstream.get("/count")[1]["streams"] >= 1, "the stream")
        left = b"".join(iter(lambda: reader.recv(1 << 20), b""))
    assert left.count(b"x" * size) == chunks
    assert b"data: [DONE]" in left
    assert resident(api) - before < 12_000_000


def encoded(question: Mapping[str, Any]) -> bytes:
    return json.dumps(question).encode()


def stopped(api: Service, upstream: Service, question: Mapping[str, Any]) -> socket.socket:
    """Ask as `hub` and read nothing of the answer; return when the upstream has the request."""
    before = upstream.get("/count")[1]["requests"]
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(60)
    reader.connect(("127.0.0.1", api.port))
    body = encoded(question)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {bearer('hub')['authorization']}\r\n"
    )
    reader.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    # Asked of the upstream: a count of requests in flight can still hold one that an earlier test has left.
    wait_until(lambda: upstream.get("/count")[1]["requests"] == before + 1, "the upstream to have the request")
    return reader


def resident(api: Service) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{api.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
