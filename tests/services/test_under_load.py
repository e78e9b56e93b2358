"""What breaks while requests run: Redis is killed and comes back, the service is told to stop, instances share what they learn."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.test_gateway_routing import MODELS, gateway
from tests.support.redis_server import Server
from tests.support.service import Service, chat, double, wait_until

AUTO = """
[model.auto]
candidates = ["one", "two"]
"""


@pytest.fixture(scope="module")
def doubles() -> Iterator[tuple[Service, Service]]:
    with double() as first, double() as second:
        yield first, second


@pytest.fixture
def models(tmp_path: Path, doubles: tuple[Service, Service]) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(MODELS.format(first=doubles[0].port, second=doubles[1].port) + AUTO)
    return path


@pytest.fixture
def redis() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: a socket's path has a limit of 107 bytes
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


class Load:
    """Clients that ask one request after another until told to stop; `failed` holds what was not answered with 200."""

    def __init__(self, api: Service, clients: int = 8, **fields: Any) -> None:
        self.caches: list[str] = []
        self.failed: list[Any] = []
        self._stop = threading.Event()
        self._api = api
        self._fields = fields
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        for count in range(100_000):
            if self._stop.is_set():
                return
            body = chat("one", f"question {number} {count % 3}", **self._fields)
            try:
                status, answer, headers = self._api.post("/v1/chat/completions", body)
            except OSError as error:
                self.failed.append(error)
                return
            if status != 200:
                self.failed.append(answer)
            self.caches.append(headers.get("x-llm-call-cache", "none"))


def test_a_redis_that_dies_and_comes_back_fails_no_request(models: Path, redis: Server) -> None:
    with gateway(models, REDIS_URL=redis.url) as api:
        with Load(api, temperature=0) as load:
            wait_until(lambda: "hit" in load.caches, "a hit")
            redis.kill()
            wait_until(lambda: "off" in load.caches, "requests without the cache")
            assert api.get("/health/ready")[1]["status"] == "degraded"
            redis.start()
            count = len(load.caches)
            wait_until(lambda: "hit" in load.caches[count:], "a hit after the restart", 20)
            wait_until(lambda: api.get("/health/ready")[1]["status"] == "ok", "readiness")
        assert load.failed == []
        assert "Traceback" not in api.output


def test_a_stream_is_served_from_redis(models: Path, redis: Server, doubles: tuple[Service, Service]) -> None:
    with gateway(models, REDIS_URL=redis.url) as api:
        question = chat("one", "streamed and kept", temperature=0, stream=True)
        before = doubles[0].get("/count")[1]["requests"]
        answers = [api.post("/v1/chat/completions", question) for _ in range(2)]
        assert [headers["x-llm-call-cache"] for _, _, headers in answers] == ["miss", "hit"]
        assert answers[0][1] == answers[1][1]
        assert doubles[0].get("/count")[1]["requests"] == before + 1


def test_identical_requests_make_one_call(models: Path, redis: Server, doubles: tuple[Service, Service]) -> None:
    question = chat("one", "the same", temperature=0, x_double={"delay": 0.5})
    with gateway(models, REDIS_URL=redis.url) as api:
        before = doubles[0].get("/count")[1]["requests"]
        caches: list[str] = []

        def ask() -> None:
            status, _, headers = api.post("/v1/chat/completions", question)
            caches.append(headers["x-llm-call-cache"] if status == 200 else str(status))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert doubles[0].get("/count")[1]["requests"] == before + 1
        assert sorted(caches) == ["hit"] * 11 + ["miss"]


def test_sigterm_under_load_finishes_every_request_that_it_took(models: Path, doubles: tuple[Service, Service]) -> None:
    before = doubles[0].get("/count")[1]["requests"]
    with gateway(models) as api:
        refused: list[Any] = []
        answered: list[int] = []

        def ask() -> None:
            body = chat("one", x_double={"delay": 0.2})
            while not refused:
                try:
                    status, answer, _ = api.post("/v1/chat/completions", body)
                except ConnectionError as error:  # a connection that nobody accepted any more
                    refused.append(error)
                    return
                answered.append(status)
                if status != 200:
                    refused.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answered) > 32, "requests")
        api.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert api.process.wait(5) == 0
    # New work is turned away in OpenAI's shape, with a hint when to come back; nothing that was taken is dropped.
    assert set(answered) <= {200, 503}
    assert all(isinstance(each, ConnectionError) or each["error"]["code"] == "draining" for each in refused)
    assert doubles[0].get("/count")[1]["requests"] == before + answered.count(200)


def test_two_instances_share_what_they_learn(models: Path, redis: Server) -> None:
    env = {"REDIS_URL": redis.url, "ENABLE_RL_ROUTING": "true"}
    # Only the model "one" fails, so "two" is to be preferred.
    wish = {"status": 503, "model": "one"}
    models.write_text(models.read_text().replace("[model.one]", "[model.one]\nretries = 0"))
    with gateway(models, **env) as teacher, gateway(models, **env) as pupil:
        idents = []
        for _ in range(30):
            status, _, headers = teacher.post("/v1/chat/completions", chat("auto", x_double=wish))
            assert status == 200
            idents.append(headers["x-request-id"])

        def learned() -> Any:
            return pupil.get("/v1/routing")[1]["routes"].get("auto")

        wait_until(lambda: (learned() or {}).get("best") == "two", "what the other instance saw", 20)
        chosen = [pupil.post("/v1/chat/completions", chat("auto"))[2]["x-llm-call-upstream"] for _ in range(20)]
        assert chosen.count("second") >= 15
        rated = {"request_id": idents[-1], "rating": 0.5}
        wait_until(lambda: pupil.post("/v1/feedback", rated)[0] == 200, "the request's record", 10)
        status, answer, _ = pupil.post("/v1/feedback", {"request_id": "unknown", "rating": 1})
        assert (status, answer["error"]["code"]) == (404, "request_not_found")
        shown = pupil.get("/metrics")[1].decode()
        assert 'llm_call_arm_pulls{arm="two",route="auto"}' in shown


def test_a_stopped_redis_delays_no_more_than_one_request_each(models: Path, redis: Server) -> None:
    """A Redis that hangs is worse than one that is gone: nobody says so."""
    with gateway(models, REDIS_URL=redis.url) as api:
        assert api.post("/v1/chat/completions", chat("one", temperature=0))[2]["x-llm-call-cache"] == "miss"
        redis.pause()
        try:
            seconds = []
            for _ in range(3):
                began = time.monotonic()
                status, _, headers = api.post("/v1/chat/completions", chat("one", "new", temperature=0))
                seconds.append(time.monotonic() - began)
                assert (status, headers["x-llm-call-cache"]) == (200, "off")
        finally:
            redis.resume()
        assert seconds[0] < 5
        wait_until(lambda: api.get("/health/ready")[1]["status"] == "ok", "Redis to be back", 10)
