"""Metrics for Prometheus, by prometheus-client: a registry of the service's own, GET /metrics, and HTTP as such.

A label's values must be few and known: every new one is a time series that is kept for ever. That is the duty of whoever
labels: a configured model's name will do, a name that clients send will not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving import logs
from serving.asgi import Scope

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Bounds of histograms of durations: from a hit in the cache to the longest answer of a large model."""
COMMON = (
    "/v1/chat/completions",
    "/v1/models",
    "/health",
    "/health/accepting",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
)
"""The paths that all our services have."""
OTHER = "other"
"""The label of every path that the service does not have."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Labelled(Protocol[T_co]):
    """A metric with labels, of which every combination of values is a series."""

    def labels(self, *values: Any) -> T_co:
        """Return the series of these values."""


class Series(dict[tuple[Any, ...], T], Generic[T]):
    """The series of one metric by the tuple of their labels' values: `series[model, status].inc()`.

    The library finds a series in 1.5 microseconds, a dictionary in a tenth of one.
    """

    def __init__(self, metric: Labelled[T]) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[Any, ...]) -> T:
        """Make the series when it is first asked for."""
        series = self[values] = self._metric.labels(*values)
        return series


class Metrics:
    """The registry of one service, with the metrics of the process, its garbage collector and its HTTP requests.

    `prefix` begins the names of the service's own metrics. `paths` are those it has beside the common ones, each a label;
    one that ends in `*` stands for all that begin so. Requests count at their end, by path and status (0: the client
    left before an answer): give `observe` to the RequestLog.
    """

    def __init__(self, prefix: str, paths: Collection[str] = ()) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        own: dict[str, Any] = {"namespace": prefix, "registry": self.registry}
        self._watches: list[Callable[[], Awaitable[None]]] = []
        self._labels = {each: each for each in (*COMMON, *paths)}
        self._beginnings = [each for each in paths if each.endswith("*")]
        self._requests = Series(Counter("http_requests", "Requests by path and status.", ("path", "status"), **own))
        text = "Seconds until the end of the answer."
        self._seconds = Series(Histogram("http_request_seconds", text, ("path",), buckets=SECONDS, **own))
        # Asked when somebody looks, so that requests pay nothing for it.
        Gauge("http_requests_in_flight", "Requests that are being answered.", **own).set_function(logs.in_flight)

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request that has ended."""
        path = self._labels.get(scope["path"]) or self._label(scope["path"])
        self._requests[path, status].inc()
        self._seconds[path,].observe(seconds)

    def before(self, watch: Callable[[], Awaitable[None]]) -> None:
        """Have `watch` awaited before the metrics are shown: for what cannot be read without waiting."""
        self._watches.append(watch)

    def route(self) -> Route:
        """Return GET /metrics: the text format, or OpenMetrics for who accepts it."""
        return Route("/metrics", self._show)

    async def _show(self, request: Request) -> Response:
        for watch in self._watches:
            await watch()
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), headers={"content-type": kind, "cache-control": "no-store"})

    def _label(self, path: str) -> str:
        return next((each for each in self._beginnings if path.startswith(each[:-1])), OTHER)
