"""schemathesis, unchanged, over each service's OpenAPI document against the running service, and what it cannot send."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import claude_proxy_process
from tests.support.claude_cli_double import install
from tests.support.service import READY, ROOT, Service, double, running

KEY = secrets.token_urlsafe()
EXAMPLES = "25"
SILENCE = "10"
"""Seconds after which an answer that does not come is a failure."""
MODELS = """
[upstream.double]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
timeout = 5
breaker_failures = 1000
[model."max/*"]
upstream = "double"
[model."openai/*"]
upstream = "double"
[model.one]
upstream = "double"
[model.two]
upstream = "double"
[model.auto]
candidates = ["one", "two"]
"""
NAMES = """
[dictionaries.models]
values = {names}
[parameters]
"body.model" = {{ dictionary = "models", probability = 0.9 }}
"path.name" = {{ dictionary = "models", probability = 0.5 }}
"""
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Service]:
    with double() as service:
        yield service


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"tester:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    return path


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, upstream: Service, keys: Path) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("api") / "models.toml"
    models.write_text(MODELS.format(port=upstream.port))
    env = {"LLM_CALL_MODELS": str(models), "LLM_CALL_KEYS_FILE": str(keys), "ENABLE_RL_ROUTING": "true"}
    with running(["-m", "llm_call.api", "--port", "0"], READY, env) as service:
        yield service


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[claude_proxy_process.Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    settings = {"CLAUDE_PROXY_CLI": str(install(folder / "claude")), "CLAUDE_PROXY_KEYS_FILE": str(keys)}
    with claude_proxy_process.running(folder, {**settings, "ANTHROPIC_API_KEY": secrets.token_hex()}) as proxy:
        yield proxy


def explore(folder: Path, port: int, document: str, names: list[str], *leave_out: str) -> None:
    """Send what the document allows and what it forbids; fail with schemathesis' own report."""
    (folder / "schemathesis.toml").write_text(NAMES.format(names=json.dumps(names)))
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", "schemathesis.toml", "run"]
    command += [str(ROOT / "src" / document), f"--url=http://127.0.0.1:{port}", f"--header=Authorization: Bearer {KEY}"]
    command += ["--generation-deterministic", f"--max-examples={EXAMPLES}", f"--request-timeout={SILENCE}"]
    command += ["--phases=examples,coverage,fuzzing", "--continue-on-failure", "--warnings=off", "--checks=all"]
    # Making a failure small takes hundreds of requests, each of them a CLI: the time would end before the report.
    command += ["--no-shrink"]
    command += [f"--exclude-checks={check}" for check in leave_out]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def answered(log: str, path: str) -> set[tuple[int, bool | None]]:
    """The statuses with which the service answered requests to `path`, and whether they asked for a stream."""
    lines = [json.loads(line) for line in log.splitlines() if '"message":"request"' in line]
    return {(line["status"], line.get("stream")) for line in lines if line["path"] == path}


def test_the_gateway_keeps_to_its_document(api: Service, upstream: Service, tmp_path: Path) -> None:
    before = upstream.get("/count")[1]["requests"]
    # Integers beyond 64 bits are refused at any depth, which a schema without an end would have to tell.
    names = ["max/sonnet", "openai/small", "auto", "one", "max/opis"]
    explore(tmp_path, api.port, "llm_call/api/openapi.json", names, "positive_data_acceptance")
    assert upstream.get("/count")[1]["requests"] - before > 30, "too few requests went all the way"
    expected = {(200, False), (200, True), (400, None), (401, None), (404, False), (415, None)}
    assert answered(api.output, CHAT) >= expected
    assert "Traceback" not in api.output


def test_the_claude_proxy_keeps_to_its_document(proxy: claude_proxy_process.Proxy, tmp_path: Path) -> None:
    # What the last message has to be cannot be told in a schema, so not all that is allowed there is accepted.
    names = ["max/sonnet", "opus", "claude-any", "max/opis"]
    explore(tmp_path, proxy.port, "claude_proxy/openapi.json", names, "positive_data_acceptance")
    log = proxy.log.read_text()
    assert answered(log, CHAT) >= {(200, False), (200, True), (400, None), (401, None)}
    assert "Traceback" not in log


def document(path: str) -> Any:
    return json.loads((ROOT / "src" / path).read_text())


def test_the_gateways_document_is_served_without_a_key(api: Service) -> None:
    status, served, headers = api.ask("GET", "/openapi.json", None, {})
    assert (status, headers["content-type"]) == (200, "application/json")
    assert served == document("llm_call/api/openapi.json")


def test_the_claude_proxys_document_is_served_without_a_key(proxy: claude_proxy_process.Proxy) -> None:
    answer = proxy.request("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == document("claude_proxy/openapi.json")


def request(body: bytes, *headers: str, path: str = CHAT) -> bytes:
    """Return a request as bytes, with a length unless a header tells one."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", *headers]
    if not any(line.startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def say(port: int, sent: bytes) -> tuple[int, Any, dict[str, str]]:
    """Send bytes; return status, error and head of the answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        head = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(response.read()).get("error"), head


def asking(model: str = '"one"', more: str = "") -> bytes:
    return f'{{"model": {model}, "messages": [{{"role": "user", "content": "hi"}}]{more}}}'.encode()


MALFORMED = {
    "empty": (b"", 400, "invalid_json"),
    "cut": (b'{"model": "one", "mess', 400, "invalid_json"),
    "no JSON": (b"model=one", 400, "invalid_json"),
    "not an object": (b"[1]", 400, "invalid_json"),
    "bad UTF-8": (asking().replace(b"hi", b"\xff\xfe"), 400, "invalid_json"),
    "UTF-16": (asking().decode().encode("utf-16"), 400, "invalid_json"),
    "half a surrogate": (asking('"\\ud800"'), 400, "invalid_json"),
    "NaN": (asking(more=', "temperature": NaN'), 400, "invalid_json"),
    "Infinity": (asking(more=', "temperature": -Infinity'), 400, "invalid_json"),
    "1e999": (asking(more=', "temperature": 1e999'), 400, "invalid_json"),
    "a number of 5000 digits": (asking(more=f', "seed": {"9" * 5000}'), 400, "invalid_json"),
    "100,000 brackets": (asking(more=f', "x": {"[" * 100_000}'), 400, "invalid_json"),
    "too deep to be written again": (asking('"max/x"', f', "x": {"[" * 500}{"]" * 500}'), 400, "invalid_json"),
    "NUL in the model": (asking('"on\\u0000e"'), 400, "invalid_value"),
    "an integer of 30 digits": (asking(more=', "seed": 123456789012345678901234567890'), 400, "invalid_json"),
    "a member twice": (asking(more=', "model": "max/x"'), 400, "invalid_json"),
    "a member in capitals": (asking(more=', "MODEL": "max/x"'), 400, "invalid_json"),
    "a model of 100 kB": (asking(f'"{"m" * 100_000}"'), 404, "model_not_found"),
    "a model that is a number": (asking("7"), 400, "invalid_value"),
    "a model that is a list": (asking('["one"]'), 400, "invalid_value"),
    "no model": (b'{"messages": [1]}', 400, "invalid_value"),
    "messages of the wrong type": (b'{"model": "one", "messages": "hi"}', 400, "invalid_value"),
    "no messages": (b'{"model": "one", "messages": []}', 400, "invalid_value"),
    "stream as text": (asking(more=', "stream": "yes"'), 400, "invalid_value"),
    "21 MB": (asking() + b" " * 21 * 1024 * 1024, 413, "request_too_large"),
}


@pytest.mark.parametrize(("body", "status", "code"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_are_openai_errors(api: Service, body: bytes, status: int, code: str) -> None:
    got, error, head = say(api.port, request(body, "content-type: application/json"))
    assert (got, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert 10 < len(error["message"]) < 400
    assert head["content-type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", head["x-request-id"])
    assert "Traceback" not in api.output


@pytest.mark.parametrize(
    "body", [asking('"max/x"', ', "seed": 18446744073709551615'), asking('"max/x"', ', "x": {"y": "\\u0000"}')]
)
def test_odd_but_valid_requests_pass(api: Service, body: bytes) -> None:
    assert say(api.port, request(body))[0] == 200


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.any+json"]
)
def test_json_is_known_by_all_its_names(api: Service, kind: str) -> None:
    assert say(api.port, request(asking(), f"content-type: {kind}"))[0] == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/feedback"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", ";"]
)
def test_another_content_type_is_refused(api: Service, kind: str, path: str) -> None:
    """A page of a browser may send these anywhere without being asked first."""
    status, error, _ = say(api.port, request(asking(), f"content-type: {kind}", path=path))
    assert (status, error["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in error["message"]


@pytest.mark.parametrize(
    "headers",
    [
        ["content-length: 70", "content-length: 71"],
        ["content-length: 70", "transfer-encoding: chunked"],
        ["content-length: -1"],
        ["content-length: 7x"],
        ["content-length: 99999999999999999999999"],
        ["x y: z", "content-length: 70"],
    ],
    ids=" and ".join,
)
def test_what_could_be_read_in_two_ways_is_no_request(api: Service, upstream: Service, headers: list[str]) -> None:
    before = upstream.get("/count")[1]["requests"]
    status, error, head = say(api.port, request(asking(), *headers))
    assert (status, error["code"], error["type"]) == (400, "invalid_http", "invalid_request_error")
    assert head["connection"] == "close"
    assert upstream.get("/count")[1]["requests"] == before


@pytest.mark.parametrize("stream", [True, False])
def test_names_of_fields_cannot_break_the_claude_proxys_answer(proxy: claude_proxy_process.Proxy, stream: bool) -> None:
    """It tells in a header which of them it does not heed."""
    fields = {"a\r\nx-injected: 1": 1, "b\x00\x7f": 1, "ü": 1, "top_k": 1}
    sent = claude_proxy_process.question("hello", stream=stream, **fields)
    answer = proxy.request("POST", CHAT, sent, {"authorization": f"Bearer {KEY}"})
    assert answer.status == 200
    assert "top_k" in answer.headers["x-claude-proxy-ignored"]
    assert "x-injected" not in answer.headers


def test_nothing_is_left_running(api: Service) -> None:
    shown = api.get("/metrics")[1].decode()
    assert re.search(r"^llm_call_http_requests_in_flight 1\.0$", shown, re.MULTILINE), "1 is the one that asks"
