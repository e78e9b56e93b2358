"""Slow, abusive and cross-origin clients, SIGHUP and requests per minute: real processes, plain sockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import READY, ROOT, Service, running, wait_until

PATIENCE = 0.5
MODELS = """
[upstream.nobody]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
[model."n/*"]
upstream = "nobody"
"""
HEAD = b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n"


@contextlib.contextmanager
def small(*arguments: str, **env: str) -> Iterator[Service]:
    with running(["-m", "tests.support.small_service", *arguments], READY, {"DRAIN_SECONDS": "5"} | env) as service:
        yield service


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with small(SMALL_REQUEST_SECONDS=str(PATIENCE)) as service:
        yield service


@contextlib.contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, Any], bytes]:
    """Read until the service closes; return status, error and head of the answer."""
    received = bytearray()
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"], head.lower()


def test_a_head_that_does_not_end_is_refused_in_time(service: Service) -> None:
    with connected(service) as connection:
        began = time.monotonic()
        connection.sendall(HEAD)
        status, error, head = answer(connection)
        assert (status, error["code"], error["type"]) == (408, "request_timeout", "invalid_request_error")
        assert b"connection: close" in head
        assert time.monotonic() - began >= PATIENCE


def test_a_head_that_drips_is_refused_too(service: Service) -> None:
    with connected(service) as connection:
        connection.setblocking(False)
        connection.send(HEAD)

        def refused() -> bytes:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                connection.send(b"x")
            with contextlib.suppress(BlockingIOError):
                return connection.recv(65536)
            return b""

        assert wait_until(refused, "the refusal", 10).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_falls_silent_is_refused_and_nothing_is_left_running(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(HEAD + b"\r\n12345")
        wait_until(lambda: metric(service, "small_http_requests_in_flight") == 2, "the request to be running")
        assert answer(connection)[0] == 408
    wait_until(lambda: metric(service, "small_http_requests_in_flight") == 1, "the request to end")
    assert "Traceback" not in service.output


def test_a_slow_body_that_makes_progress_is_taken(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(HEAD + b"connection: close\r\n\r\n")
        for _ in range(10):  # twice as long as silence may last
            connection.settimeout(PATIENCE / 5)
            with contextlib.suppress(TimeoutError):
                assert connection.recv(1), "closed"
            connection.settimeout(10)
            connection.sendall(b"x")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_says_nothing_is_closed_without_a_word(service: Service) -> None:
    for said in (b"", b"\r\n"):
        with connected(service) as connection:
            connection.sendall(said)
            assert connection.recv(1) == b""


def test_a_long_answer_is_not_cut_by_the_time_for_requests(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(b"GET /v1/much HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: read_some(connection, 1 << 20), "data", 10)
        end = time.monotonic() + 4 * PATIENCE + 1
        wait_until(lambda: read_some(connection, 1) and time.monotonic() > end, "data beyond the time", 10)


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"x-%d: 1\r\n" % number for number in range(200)),
        b"".join(b"x-%d: %b\r\n" % (number, b"y" * 2000) for number in range(40)),
        b"x: " + b"y" * 300_000 + b"\r\n",
    ],
    ids=["many", "sum", "one"],
)
def test_large_heads_are_refused(service: Service, head: bytes) -> None:
    for end in (b"\r\n", b""):
        with connected(service) as connection:
            connection.sendall(b"GET /v1/much HTTP/1.1\r\n" + head + end)
            status, error, _ = answer(connection)
            assert (status, error["code"]) == (431, "headers_too_large")
            assert "100 headers and 64 KiB" in error["message"]


def test_a_large_body_beside_a_small_head_is_no_large_head(service: Service) -> None:
    body = b"x" * 1_000_000
    assert service.ask("POST", "/v1/size", body, {})[:2] == (200, b"1000000")


def test_who_still_sends_gets_the_answer_that_comes_early(tmp_path: Path) -> None:
    """Also with `connection: close`, as balancers ask: closing with unread bytes would be a reset, and no answer."""
    (keys := tmp_path / "keys").write_text(f"somebody:{hashlib.sha256(b'k').hexdigest()}\n")
    body = b"x" * 8_000_000  # more than all buffers on the way hold
    head = b"POST /v1/size HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    with small(SMALL_KEYS=str(keys)) as guarded, connected(guarded) as connection:
        connection.sendall(head)
        wait_until(lambda: b"401" in connection.recv(64, socket.MSG_PEEK), "the answer before the body")
        connection.sendall(body)
        assert answer(connection)[0] == 401


@pytest.mark.parametrize("extension", [b";" + b"x" * 70_000, b";" + b"x" * 4000], ids=["one", "many"])
def test_what_stands_beside_the_lengths_of_chunks_has_a_limit(service: Service, extension: bytes) -> None:
    with connected(service) as connection:
        connection.sendall(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):  # it stops reading when it has seen enough
            connection.sendall((b"1" + extension + b"\r\nx\r\n") * 40)
        assert answer(connection)[0] == 431


def test_many_small_chunks_are_no_large_head(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.sendall(b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        wait_until(lambda: connection.recv(65536, socket.MSG_PEEK).endswith(b"\r\n\r\n100000"), "the answer")


def test_malformed_http_is_an_openai_error(service: Service) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
        with connected(service) as connection:
            connection.sendall(nonsense)
            status, error, _ = answer(connection)
            assert (status, error["code"], error["type"]) == (400, "invalid_http", "invalid_request_error")


LONG = b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nab"
"""Let in, for this service asks for no key, and not at its end."""


def test_connections_above_the_limit_are_told_so() -> None:
    with small(SMALL_MAX_CONNECTIONS="2") as service, contextlib.ExitStack() as held:
        first, second = (held.enter_context(connected(service)) for _ in range(2))
        for each in (first, second):
            each.sendall(LONG)
        wait_until(lambda: service.get("/health/live")[0] == 503, "both to be let in")
        with connected(service) as third:
            third.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            status, error, head = answer(third)
            assert (status, error["code"], error["type"]) == (503, "too_many_connections", "server_error")
            assert b"\r\nretry-after: 1" in head
        first.close()
        wait_until(lambda: service.get("/health/live")[0] == 200, "a free connection")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With a key, and room for 256 connections without one, 64 of them for longer than a second."""
    with small(SMALL_KEYS=keys(tmp_path_factory.mktemp("keys"), ""), SMALL_MAX_CONNECTIONS="16") as service:
        yield service


def size(connection: socket.socket, key: bytes) -> bytes:
    """Ask for the size of a small body by this connection; return the beginning of the answer."""
    head = b"POST /v1/size HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: 3\r\n\r\nabc"
    connection.sendall(head % key)
    return connection.recv(65536)[:12]


ATTACKS = {
    "silent": b"",
    "a part of a head": b"GET /v1/much HTTP/1.1\r\nx: ",
    "a body that does not come": b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nx",
    "a wrong key and no body": HEAD + b"authorization: Bearer wrong\r\n\r\nx",
    "HTTP/1.0": b"POST /v1/size HTTP/1.0\r\ncontent-length: 100000\r\n\r\nx",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "many at once": b"GET /v1/size HTTP/1.1\r\nhost: x\r\n\r\n" * 100,
}


@pytest.mark.parametrize("sent", ATTACKS.values(), ids=ATTACKS)
def test_clients_without_a_key_take_nothing_of_those_with_one(guarded: Service, sent: bytes) -> None:
    """Four times as many as there is room for; every one of them is closed within seconds, whoever had a key stays."""
    with contextlib.ExitStack() as held:
        kept = held.enter_context(connected(guarded))
        assert size(kept, b"free") == b"HTTP/1.1 200"
        crowd = []
        for number in range(1024):
            crowd.append(held.enter_context(connected(guarded)))
            with contextlib.suppress(ConnectionError):  # closed already, for the next ones
                crowd[-1].sendall(sent)
            if number % 128 == 0:
                with connected(guarded) as fresh:
                    assert size(fresh, b"free") == b"HTTP/1.1 200"
            if number % 16 == 0:  # one that nobody uses for five seconds is closed, crowd or not
                assert size(kept, b"free") == b"HTTP/1.1 200"
        assert size(kept, b"free") == b"HTTP/1.1 200"
        for each in crowd:
            each.settimeout(20)
            with contextlib.suppress(ConnectionError):
                while each.recv(65536):
                    pass


def test_an_early_answer_reaches_whoever_reads_it_and_the_connection_ends_soon(guarded: Service) -> None:
    with connected(guarded) as connection:
        connection.sendall(HEAD.replace(b" 10", b" 100000") + b"\r\nx")
        assert answer(connection)[0] == 401, "and then the end of the answers"
        began = time.monotonic()
        closed = wait_until(lambda: sends_no_more(connection), "the service to close", 20)
        assert closed
        assert time.monotonic() - began < 15  # 2 s and a look every second; far below the time for a body


def sends_no_more(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except ConnectionError:
        return True
    return False


def test_a_client_that_reads_nothing_holds_no_memory(service: Service) -> None:
    with connected(service) as connection:
        before = metric(service, "process_resident_memory_bytes")
        connection.sendall(b"GET /v1/much HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: read_some(connection, 1), "data", 10)

        def sent() -> str:
            return re.findall(r'"pieces":(\d+)', service.output)[-1]

        now = [""]

        def stands_still() -> bool:
            before, now[0] = now[0], sent()
            service.get("/health/live")
            return before == now[0]

        wait_until(stands_still, "the sender to wait", 10)
        assert metric(service, "process_resident_memory_bytes") - before < 16 * 1024 * 1024
        assert int(sent()) < 1024


def test_sighup_reads_files_again_whatever_one_of_them_raises() -> None:
    with small(SMALL_RELOADS="yes") as service:
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.find("read the rest again"), "the last subscriber")
        assert service.find("read again")
        assert service.find("this file is broken")
        assert service.get("/health/live")[0] == 200


def test_sighup_without_subscribers_does_nothing(service: Service) -> None:
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: service.find("SIGHUP: there is nothing to read again"), "the log line")
    assert service.get("/health/live")[0] == 200


@pytest.mark.parametrize(("number", "code"), [("SIGHUP", 7), ("SIGTERM", 0), ("SIGINT", 0)])
def test_a_signal_at_the_start_raises_nothing(number: str, code: int) -> None:
    """An exception in the middle of an extension's import can be a segmentation fault."""
    program = f"""
import os, signal, sys
from serving import options, server
options.read = lambda *_: os.kill(os.getpid(), signal.{number}) or sys.exit(7)
try:
    server.main("m:f", service="x", env_prefix="X", default_port=0)
except BaseException as error:
    os._exit(error.code if error.code else 9)
"""
    env = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (code, b"")


def test_the_supervisor_passes_sighup_on_to_the_worker() -> None:
    with small("--reload", SMALL_RELOADS="yes") as service:
        wait_until(lambda: service.find('"serving"'), "the supervisor to know its worker")
        for count in (1, 2):
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda count=count: service.output.count("read the rest again") == count, "the worker")
        assert service.stop() == 0


ORIGIN = "https://chat.example"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "x-a"}


def test_browsers_may_ask_from_the_origins_that_are_named(tmp_path: Path) -> None:
    with small(SMALL_CORS_ORIGINS=f"{ORIGIN}, http://localhost:5173", SMALL_KEYS=keys(tmp_path, "")) as service:
        status, _, headers = service.ask("OPTIONS", "/v1/size", None, PREFLIGHT)
        assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "x-a" in headers["access-control-allow-headers"]
        status, _, headers = service.ask("POST", "/v1/size", b"x", {"origin": ORIGIN})
        assert (status, headers["access-control-allow-origin"]) == (401, ORIGIN), "an error can be read too"
        assert headers["access-control-expose-headers"] == "*"
        assert "access-control-allow-credentials" not in headers
        other = {**PREFLIGHT, "origin": "https://evil.example"}
        assert "access-control-allow-origin" not in service.ask("OPTIONS", "/v1/size", None, other)[2]


def test_without_the_setting_there_is_no_cors(service: Service) -> None:
    status, _, headers = service.ask("OPTIONS", "/v1/size", None, PREFLIGHT)
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]


def test_metrics_are_shown_in_both_formats(service: Service) -> None:
    service.get("/no/such/path")
    _, text, headers = service.ask("GET", "/metrics", None, {})
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'small_http_requests_total{path="other",status="404"}' in text
    assert b'small_http_request_seconds_bucket{le="0.001",path="other"}' in text
    _, text, headers = service.ask("GET", "/metrics", None, {"accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")


def test_the_api_limits_a_key_and_says_when_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(MODELS)
    env = {"LLM_CALL_MODELS": str(tmp_path / "models.toml"), "LLM_CALL_KEYS_FILE": keys(tmp_path, "rpm=2")}
    with running(["-m", "llm_call.api", "--port", "0"], READY, env) as api:
        auth = {"authorization": "Bearer limited"}
        left = [api.ask("GET", "/v1/models", None, auth)[2]["x-ratelimit-remaining-requests"] for _ in range(2)]
        assert left == ["1", "0"]
        status, body, headers = api.ask("GET", "/v1/models", None, auth)
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert body["error"]["type"] == "rate_limit_error"
        assert 1 <= int(headers["retry-after"]) <= 30
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert re.fullmatch(r"(\d+m)?[\d.]+m?s", headers["x-ratelimit-reset-requests"])
        assert api.ask("GET", "/v1/models", None, {"authorization": "Bearer free"})[0] == 200


def keys(folder: Path, options: str) -> str:
    """Write a keys file with a key that has these options and one that has none; return its path."""
    digests = [hashlib.sha256(key).hexdigest() for key in (b"limited", b"free")]
    (folder / "keys").write_text(f"limited:{digests[0]} {options}\nfree:{digests[1]}\n")
    return str(folder / "keys")


def metric(service: Service, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", service.get("/metrics")[1].decode(), re.MULTILINE)
    assert found
    return float(found[1])


def read_some(connection: socket.socket, least: int) -> bool:
    """Read so many bytes or more."""
    received = 0
    while received < least:
        chunk = connection.recv(65536)
        assert chunk, "the answer ended"
        received += len(chunk)
    return True
