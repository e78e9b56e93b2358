"""The gateway as a real process on 127.0.0.1, in front of an upstream double."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from tests.support.service import READY, ROOT, Service, chat, double, running, wait_until

KEY = "sk-test"
MODELS = """
[upstream.double]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "DOUBLE_KEY"
timeout = 1
breaker_failures = 1000
[upstream.nobody]
kind = "openai"
base_url = "http://127.0.0.1:{closed}/v1"
[upstream.keyless]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "NO_SUCH_KEY"
[upstream.claude-proxy]
kind = "claude-proxy"
base_url = "http://127.0.0.1:{port}/v1"
[model."d/*"]
upstream = "double"
retries = 0
[model."down"]
upstream = "nobody"
[model."keyless"]
upstream = "keyless"
[model."max/opus"]
upstream = "claude-proxy"
name = "opus"
"""
AUTH = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Service]:
    with double() as service:
        yield service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, upstream: Service) -> Path:
    folder = tmp_path_factory.mktemp("api")
    text = MODELS.format(port=upstream.port, closed=free_port())
    (folder / "models.toml").write_text(text)
    (folder / "keys").write_text(f"tester:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    (folder / "double-key").write_text("the-upstream's-key\n")
    return folder


@contextlib.contextmanager
def gateway(folder: Path, **env: str) -> Iterator[Service]:
    settings = {
        "LLM_CALL_MODELS": str(folder / "models.toml"),
        "LLM_CALL_KEYS_FILE": str(folder / "keys"),
        "DOUBLE_KEY_FILE": str(folder / "double-key"),
        "DRAIN_SECONDS": "20",
    }
    with running(["-m", "llm_call.api", "--port", "0"], READY, settings | env) as service:
        yield service


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[Service]:
    with gateway(folder) as service:
        yield service


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_plain_request_travels_there_and_back(api: Service, upstream: Service) -> None:
    body = chat("d/one", "hello", vendor_field={"deep": [1]})
    status, answer, headers = api.post("/v1/chat/completions", body, x_request_id="mine-1", **AUTH)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "echo: hello"
    assert headers["x-request-id"] == "mine-1"
    assert (headers["x-llm-call-upstream"], headers["x-llm-call-cache"]) == ("double", "off")
    last = upstream.get("/last")[1]
    assert last["body"] == {**body, "model": "one"}
    assert last["headers"]["authorization"] == "Bearer the-upstream's-key"
    assert last["headers"]["x-request-id"] == "mine-1"


def test_a_stream_arrives_piece_by_piece(api: Service) -> None:
    began = time.monotonic()
    body = chat("d/one", "hello", stream=True, x_double={"chunks": 5, "gap": 0.2})
    stream = api.open("POST", "/v1/chat/completions", json.dumps(body).encode(), AUTH)
    assert stream.headers["content-type"] == "text/event-stream"
    first = stream.readline()
    assert b'"echo: "' in first
    assert time.monotonic() - began < 0.8
    rest = stream.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (first + rest).count(b"data: ") == 5 + 2


def test_an_upstream_error_keeps_its_status_and_retry_after(api: Service) -> None:
    for stream in (False, True):
        wish = {"status": 429, "retry_after": 7, "message": "slow down"}
        status, answer, headers = api.post("/v1/chat/completions", chat(stream=stream, x_double=wish), **AUTH)
        assert (status, answer["error"]["message"], headers["retry-after"]) == (429, "slow down", "7")
        assert headers["x-llm-call-upstream"] == "double"


def test_an_error_page_becomes_an_openai_error(api: Service) -> None:
    status, answer, _ = api.post("/v1/chat/completions", chat(x_double={"status": 500, "html": True}), **AUTH)
    assert status == 500
    assert answer["error"]["message"] == 'The upstream "double" answered with status 500.'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (chat("down"), 502, "upstream_unreachable"),
        (chat("keyless"), 503, "upstream_not_configured"),
        (chat("d/slow", x_double={"delay": 3}), 504, "upstream_timeout"),
        (chat("d/cut", x_double={"cut": 0}), 502, "upstream_failed"),
        (chat("d/no", x_double={"status": 401, "message": "Incorrect key sk-12"}), 401, "upstream_refused_key"),
        (chat("max/opis"), 404, "model_not_found"),
    ],
)
def test_failures_have_their_own_status_and_code(api: Service, body: object, status: int, code: str) -> None:
    got, answer, _ = api.post("/v1/chat/completions", body, **AUTH)
    assert (got, answer["error"]["code"]) == (status, code)
    assert "sk-12" not in str(answer)


def test_a_stream_that_breaks_ends_with_an_event_that_says_so(api: Service) -> None:
    body = chat(stream=True, x_double={"chunks": 9, "cut": 2})
    status, answer, _ = api.post("/v1/chat/completions", body, **AUTH)
    *pieces, last = answer.decode().strip().split("\n\n")
    assert (status, len(pieces)) == (200, 2)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_failed"
    assert "Traceback" not in api.output


def test_a_client_that_leaves_ends_the_upstream_request(api: Service, upstream: Service) -> None:
    before = upstream.get("/count")[1]["abandoned"]
    body = chat(stream=True, x_double={"chunks": 1000, "gap": 0.02})
    stream = api.open("POST", "/v1/chat/completions", json.dumps(body).encode(), AUTH)
    assert stream.readline()
    stream.close()
    wait_until(lambda: upstream.get("/count")[1]["abandoned"] == before + 1, "the upstream to notice")
    wait_until(lambda: api.find('"client":"gone"'), "the log line")


def test_who_gets_in(api: Service) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
        status, answer, got = api.ask("GET", "/v1/models", None, headers)
        assert (status, answer["error"]["code"], got["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert api.get("/v1/models", **AUTH)[0] == 200
    assert api.get("/health/live")[0] == 200


def test_readiness_names_every_dependency(api: Service) -> None:
    status, report = api.get("/health/ready")
    assert (status, report["status"]) == (200, "ok")
    states = {name: each["state"] for name, each in report["dependencies"].items()}
    expected = {"catalog": "ok", "redis": "not configured", "keyless": "not configured", "claude-proxy": "ok"}
    assert states == expected


def test_the_log_holds_no_text_and_no_key(api: Service) -> None:
    api.post("/v1/chat/completions", chat("d/one", "a very private matter"), **AUTH)
    wait_until(lambda: api.find('"key":"tester","model":"d/one"'), "the log line")
    for secret in ("private", KEY, "the-upstream's-key"):
        assert secret not in api.output


def test_the_claude_proxy_is_told_for_whom_it_works(folder: Path, tmp_path: Path, upstream: Service) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"hub:{hashlib.sha256(KEY.encode()).hexdigest()} tools=Read,Bash\n")
    with gateway(folder, LLM_CALL_KEYS_FILE=str(keys)) as api:
        for model, told in (("max/opus", ("hub", "Read,Bash", "")), ("d/one", (None, None, None))):
            api.post("/v1/chat/completions", chat(model), **AUTH)
            seen = upstream.get("/last")[1]["headers"]
            assert tuple(seen.get(f"x-llm-call-{name}") for name in ("client", "tools", "mcp")) == told


def test_a_body_over_the_limit_is_refused(folder: Path) -> None:
    with gateway(folder, LLM_CALL_MAX_BODY_BYTES="2048") as api:
        status, answer, _ = api.post("/v1/chat/completions", chat(text="x" * 3000), **AUTH)
        assert (status, answer["error"]["code"]) == (413, "request_too_large")


def test_a_dead_redis_delays_nothing_and_is_reported(folder: Path) -> None:
    with gateway(folder, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0") as api:
        for _ in range(2):
            began = time.monotonic()
            status, _, headers = api.post("/v1/chat/completions", chat(temperature=0), **AUTH)
            assert (status, headers["x-llm-call-cache"]) == (200, "off")
            assert time.monotonic() - began < 0.5
        status, report = api.get("/health/ready")
        assert (status, report["status"], report["dependencies"]["redis"]["state"]) == (200, "degraded", "failed")


def test_the_claude_proxy_can_be_switched_off(folder: Path) -> None:
    with gateway(folder, ENABLE_CLAUDE_PROXY="false") as api:
        names = [each["id"] for each in api.get("/v1/models", **AUTH)[1]["data"]]
        assert names == ["d/*", "down", "keyless"]
        assert api.post("/v1/chat/completions", chat("max/opus"), **AUTH)[0] == 404
        assert "claude-proxy" not in api.get("/health/ready")[1]["dependencies"]


def test_sigterm_ends_an_idle_service_at_once(folder: Path) -> None:
    with gateway(folder) as api:
        assert api.stop(signal.SIGTERM, 2) == 0


def test_sigterm_lets_a_stream_finish_and_turns_new_work_away(folder: Path) -> None:
    with gateway(folder) as api:
        body = chat(stream=True, x_double={"chunks": 60, "gap": 0.02})
        stream = api.open("POST", "/v1/chat/completions", json.dumps(body).encode(), AUTH)
        assert stream.readline()
        api.process.send_signal(signal.SIGTERM)
        wait_until(lambda: api.get("/health/ready")[1]["status"] == "draining", "draining", 1)
        assert api.get("/health/live")[0] == 200
        wait_until(lambda: api.get("/v1/models", **AUTH)[0] == 503, "new work to be turned away", 1)
        assert stream.read().endswith(b"data: [DONE]\n\n")
        assert api.process.wait(3) == 0


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    with gateway(folder) as api:
        body = chat(stream=True, x_double={"chunks": 600, "gap": 0.02})
        stream = api.open("POST", "/v1/chat/completions", json.dumps(body).encode(), AUTH)
        assert stream.readline()
        api.process.send_signal(signal.SIGTERM)
        wait_until(lambda: api.find('"draining"'), "draining", 2)
        assert api.stop(signal.SIGTERM, 2) == 1
        stream.close()


def start(*arguments: str, **env: str) -> tuple[int, list[str]]:
    """Run the service where it is to refuse; return the exit code and the lines on stderr."""
    full = {"PYTHONPATH": str(ROOT / "src"), **env}
    done = run(
        [sys.executable, "-m", "llm_call.api", *arguments],
        env=full,
        cwd=ROOT,
        capture_output=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stderr.decode().splitlines()


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = start("--port", str(port))
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"llm-call-api: 127.0.0.1:{port}: the port is in use")


def test_all_wrong_settings_are_reported_at_once() -> None:
    env = {"LLM_CALL_MODELS": "/nowhere.toml", "LLM_CALL_CACHE_TTL": "x", "REDIS_URL": "redis", "OPENAI_API_KEY": "k"}
    code, lines = start("--host", "0.0.0.0", "--port", "0", **env)
    assert code == 78
    for place in ("/nowhere.toml", "LLM_CALL_CACHE_TTL", "REDIS_URL", "LLM_CALL_KEYS_FILE: not set"):
        assert sum(line.startswith(f"llm-call-api: {place}") for line in lines) == 1, lines
    assert len(lines) == 4


def test_the_probe_tells_well_from_ill(api: Service) -> None:
    for url, code in ((f"http://127.0.0.1:{api.port}/health/live", 0), (f"http://127.0.0.1:{free_port()}/", 1)):
        env = {"PYTHONPATH": str(ROOT / "src")}
        done = run([sys.executable, "-m", "serving.probe", url], env=env, capture_output=True, timeout=20, check=False)
        assert done.returncode == code
        assert len(done.stderr.splitlines()) == code
