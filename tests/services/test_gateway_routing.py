"""Fallbacks, retries, reload and embeddings: the gateway as a real process in front of doubles that fail as told."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import READY, Service, chat, double, running, wait_until

MODELS = """
[upstream.first]
kind = "openai"
base_url = "http://127.0.0.1:{first}/v1"
timeout = 2
breaker_failures = 1000
[upstream.second]
kind = "openai"
base_url = "http://127.0.0.1:{second}/v1"
[model.one]
upstream = "first"
fallbacks = ["two"]
[model.two]
upstream = "second"
[model."e/*"]
upstream = "first"
[upstream.third]
kind = "openai"
base_url = "http://127.0.0.1:{second}/v1"
[model."third/*"]
upstream = "third"
"""


@pytest.fixture(scope="module")
def doubles() -> Iterator[tuple[Service, Service]]:
    with double() as first, double() as second:
        yield first, second


@pytest.fixture
def models(tmp_path: Path, doubles: tuple[Service, Service]) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(MODELS.format(first=doubles[0].port, second=doubles[1].port))
    return path


@pytest.fixture
def api(models: Path) -> Iterator[Service]:
    with gateway(models) as service:
        yield service


@contextlib.contextmanager
def gateway(models: Path, **env: str) -> Iterator[Service]:
    with running(["-m", "llm_call.api", "--port", "0"], READY, {"LLM_CALL_MODELS": str(models), **env}) as service:
        yield service


def ask(api: Service, wish: dict[str, Any], model: str = "one", **more: Any) -> tuple[int, Any, Any]:
    return api.post("/v1/chat/completions", chat(model, x_double={"name": secrets.token_hex(4), **wish}, **more))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "wish",
    [
        {"status": 429, "retry_after": 0},
        {"status": 500},
        {"status": 503, "html": True},
        {"cut": 0},
        {"malformed": True},
    ],
    ids=["429", "500", "503", "cut", "malformed"],
)
def test_what_fails_twice_is_asked_a_third_time(api: Service, wish: dict[str, Any], stream: bool) -> None:
    if stream and "malformed" in wish:
        wish = {"cut": 0}
    status, _, headers = ask(api, {**wish, "first": 2}, stream=stream)
    assert (status, headers["x-llm-call-upstream"]) == (200, "first")


@pytest.mark.parametrize("wish", [{"status": 500}, {"status": 401}, {"status": 404}, {"delay": 5}], ids=str)
def test_what_keeps_failing_is_asked_elsewhere(api: Service, wish: dict[str, Any]) -> None:
    status, _, headers = ask(api, {**wish, "model": "one"})
    assert (status, headers["x-llm-call-upstream"]) == (200, "second")


def test_a_broken_model_costs_itself_and_no_other_of_its_upstream(
    api: Service, doubles: tuple[Service, Service]
) -> None:
    before = doubles[1].get("/count")[1]["requests"]
    broken = {"status": 500, "message": "model name=bad failed to load", "model": "bad"}
    answers = [ask(api, broken, "third/bad") for _ in range(6)]
    assert [status for status, _, _ in answers] == [500] * 5 + [503]
    assert doubles[1].get("/count")[1]["requests"] == before + 5
    error = answers[-1][1]["error"]
    assert error["code"] == "upstream_circuit_open"
    assert 'The model "bad" of the upstream "third"' in error["message"]
    for name in ("third/good", "third/other"):
        assert ask(api, broken, name)[0] == 200


def test_an_upstream_that_is_down_is_replaced(models: Path, doubles: tuple[Service, Service]) -> None:
    with double() as mortal:
        models.write_text(MODELS.format(first=mortal.port, second=doubles[1].port))
        with gateway(models) as api:
            assert ask(api, {})[2]["x-llm-call-upstream"] == "first"
            body = chat("one", stream=True, x_double={"chunks": 1000, "gap": 0.02})
            with api.open("POST", "/v1/chat/completions", json.dumps(body).encode()) as stream:
                assert stream.readline()
                mortal.process.kill()
                rest = stream.read()
            assert b"upstream_failed" in rest
            assert b"[DONE]" not in rest
            assert ask(api, {})[2]["x-llm-call-upstream"] == "second"


def test_a_bad_request_is_not_sent_around(api: Service, doubles: tuple[Service, Service]) -> None:
    before = [each.get("/count")[1]["requests"] for each in doubles]
    status, answer, _ = ask(api, {"status": 400, "message": "no such field"})
    assert (status, answer["error"]["message"]) == (400, "no such field")
    assert [each.get("/count")[1]["requests"] for each in doubles] == [before[0] + 1, before[1]]


def test_embeddings(api: Service) -> None:
    status, answer, headers = api.post("/v1/embeddings", {"model": "e/small", "input": ["a", "bcd"]})
    assert status == 200
    assert [each["embedding"] for each in answer["data"]] == [[1.0], [3.0]]
    assert (answer["model"], headers["x-llm-call-upstream"]) == ("small", "first")


def test_every_answer_says_how_it_came_about(api: Service) -> None:
    for body in (chat("one"), chat("one", stream=True), chat("one", x_double={"status": 400})):
        _, _, headers = api.post("/v1/chat/completions", body)
        assert headers["x-llm-call-upstream"] == "first"
        assert headers["x-llm-call-cache"] == "off"
        assert 0 <= float(headers["x-llm-call-overhead-ms"]) < 1000
        assert headers["x-request-id"]


def test_sighup_reads_the_models_again_and_drops_nothing(api: Service, models: Path) -> None:
    body = chat("one", stream=True, x_double={"chunks": 40, "gap": 0.05})
    with api.open("POST", "/v1/chat/completions", json.dumps(body).encode()) as stream:
        assert stream.readline()
        text = models.read_text()
        models.write_text(text.replace('[model."e/*"]', '[model."f/*"]'))
        api.process.send_signal(signal.SIGHUP)
        wait_until(lambda: api.find('"models reloaded"'), "the reload")
        assert "f/*" in [each["id"] for each in api.get("/v1/models")[1]["data"]]
        models.write_text(text.replace('upstream = "second"', 'upstream = "secnd"'))
        api.process.send_signal(signal.SIGHUP)
        wait_until(lambda: api.find("models not reloaded.*perhaps you meant"), "the refusal")
        assert "f/*" in [each["id"] for each in api.get("/v1/models")[1]["data"]]
        assert stream.read().endswith(b"data: [DONE]\n\n")
    shown = api.get("/metrics")[1].decode()
    assert 'llm_call_reloads_total{outcome="ok"} 1.0' in shown
    assert 'llm_call_reloads_total{outcome="failed"} 1.0' in shown


def test_a_reload_under_load_fails_no_request(api: Service) -> None:
    failures: list[Any] = []

    def load() -> None:
        for _ in range(40):
            status, answer, _ = ask(api, {})
            if status != 200:
                failures.append(answer)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        api.process.send_signal(signal.SIGHUP)
        threads[0].join(0.05)
    assert failures == []


def test_routing_is_off_unless_switched_on(api: Service) -> None:
    assert api.get("/v1/routing")[1] == {"enabled": False, "routes": {}}
    status, answer, _ = api.post("/v1/feedback", {"request_id": "x", "rating": 1})
    assert (status, answer["error"]["code"]) == (409, "routing_disabled")
