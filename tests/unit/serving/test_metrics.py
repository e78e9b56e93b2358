"""serving.metrics, and what serving.logs tells it."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import Counter
from starlette.applications import Starlette

from serving import logs
from serving.logs import RequestLog
from serving.metrics import Metrics, Series
from tests.support.asgi import ask


def shown(metrics: Metrics, accept: str = "") -> list[str]:
    app = Starlette(routes=[metrics.route()])
    return asyncio.run(ask(app, "GET", "/metrics", headers={"accept": accept})).body.decode().splitlines()


def test_the_process_and_its_collector_are_shown() -> None:
    names = {line.partition("{")[0].partition(" ")[0] for line in shown(Metrics("x"))}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections_total"} <= names


def test_openmetrics_for_who_accepts_it() -> None:
    assert shown(Metrics("x"), "application/openmetrics-text; version=1.0.0")[-1] == "# EOF"
    assert "# EOF" not in shown(Metrics("x"))


def test_paths_of_the_service_are_labels_and_no_others() -> None:
    metrics = Metrics("x", ["/v1/embeddings", "/v1/models/*"])
    for path in ("/v1/embeddings", "/v1/models", "/v1/models/a", "/v1/models/b", "/v1/model", "/x%0a", "", "other"):
        metrics.observe({"path": path}, 200, 0.002)
    lines = shown(metrics)
    counts = {"/v1/embeddings": 1, "/v1/models": 1, "/v1/models/*": 2, "other": 4}
    for path, count in counts.items():
        assert f'x_http_requests_total{{path="{path}",status="200"}} {count}.0' in lines
        assert f'x_http_request_seconds_bucket{{le="0.0025",path="{path}"}} {count}.0' in lines
        assert f'x_http_request_seconds_bucket{{le="0.001",path="{path}"}} 0.0' in lines
    assert sum(line.startswith("x_http_requests_total") for line in lines) == len(counts)


def test_a_series_is_made_once() -> None:
    metrics = Metrics("x")
    series = Series(Counter("c", "A count.", ("a", "b"), registry=metrics.registry))
    for _ in range(2):
        series["one", 2].inc()
    assert 'c_total{a="one",b="2"} 2.0' in shown(metrics)
    assert list(series) == [("one", 2)]


@pytest.mark.parametrize(("fate", "status"), [("answered", 204), ("fails", 500), ("silent", 0), ("left", 0)])
def test_each_request_is_observed_once(fate: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    async def app(scope, receive, send) -> None:
        assert logs.in_flight() == 1
        if fate == "answered":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        if fate == "fails":
            msg = "broken"
            raise RuntimeError(msg)
        if fate == "left":
            raise asyncio.CancelledError

    async def scenario() -> None:
        asking = asyncio.create_task(ask(RequestLog(app, lambda *told: seen.append(told)), "GET", "/v1/x"))
        await asyncio.wait([asking])
        assert asking.cancelled() == (fate == "left")

    asyncio.run(scenario())
    ((scope, got, seconds),) = seen
    assert (scope["path"], got) == ("/v1/x", status)
    assert 0 <= seconds < 5
    assert logs.in_flight() == 0
