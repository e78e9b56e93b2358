"""What Prometheus is told about requests. Labels hold configured names only, so their number is bounded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from llm_call.api.call import Call
from llm_call.api.catalog import Target
from serving.metrics import SECONDS, Series

OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)

LOCAL = (
    (
        "state",
        "Of a local model: 0 not loaded, 1 starting, 2 ready, 3 waits after a failure, 4 ending.",
        GaugeMetricFamily,
    ),
    ("memory_bytes", "Memory of a local model's process, mapped weights included.", GaugeMetricFamily),
    ("starts", "How often a local model was loaded.", CounterMetricFamily),
    ("failed_starts", "How often a local model could not be loaded.", CounterMetricFamily),
    ("crashes", "How often a local model ended by itself, or was ended for a fault.", CounterMetricFamily),
)
"""Figures of local models: name, help, kind."""

Family = type[GaugeMetricFamily] | type[CounterMetricFamily]
Sample = tuple[tuple[str, ...], float]


class Telemetry:
    """Counters and histograms of the gateway in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        both = ("model", "upstream")
        self._requests = self._counter("requests", "Requests by model, upstream and status.", (*both, "status"))
        self._seconds = self._histogram("request_seconds", "From request to end of answer.", both, SECONDS)
        self._first_byte = self._histogram("first_byte_seconds", "From request to first byte of answer.", both, SECONDS)
        self._overhead = self._histogram("overhead_seconds", "The gateway's own time.", (), OVERHEAD_SECONDS)
        self._tokens = self._counter(
            "tokens", "Tokens by kind; kinds that end in _estimated are ours.", (*both, "kind")
        )
        self._cost = self._counter("cost_usd", "US dollars, by the prices of models.toml.", both)
        self._attempts = self._counter("attempts", "Attempts at upstreams.", ("upstream", "outcome"))
        self._cache = self._counter("cache", "What the cache did: hit, miss, off.", ("result",))
        self._reloads = self._counter("reloads", "Reloads of the models file.", ("outcome",))

    def ended(self, call: Call, status: int) -> None:
        """Count a request that is over; `status` 499: the client left."""
        both = call.route.name, call.upstream
        overhead = call.overhead
        self._requests[(*both, status)].inc()
        self._seconds[both].observe(overhead + call.waited)
        self._overhead[()].observe(overhead)
        self._cache[call.cache,].inc()
        if call.first_byte is not None:
            self._first_byte[both].observe(call.first_byte)

    def tokens(self, call: Call, target: Target) -> None:
        """Count the tokens of one answer of an upstream, whoever listened to it and for how long."""
        if call.usage:
            both, suffix = (call.route.name, target.upstream.name), "_estimated" if call.usage.estimated else ""
            self._tokens[(*both, f"prompt{suffix}")].inc(call.usage.prompt)
            self._tokens[(*both, f"completion{suffix}")].inc(call.usage.completion)

    def attempt(self, target: Target, ok: bool, cost: float | None) -> None:
        """Count an attempt at an upstream, and what it cost in US dollars."""
        self._attempts[target.upstream.name, "ok" if ok else "failed"].inc()
        if cost:
            self._cost[target.model, target.upstream.name].inc(cost)

    def reloaded(self, *, ok: bool) -> None:
        """Count a reload of the models file."""
        self._reloads["ok" if ok else "failed",].inc()

    def gauge(self, name: str, text: str, labels: Iterable[str], read: Callable[[], Iterable[Sample]]) -> None:
        """Add a gauge `llm_call_NAME` whose samples are read when somebody looks."""
        self._registry.register(_Read(GaugeMetricFamily, f"llm_call_{name}", text, tuple(labels), read))

    def show_local(self, figures: Callable[[], Iterable[tuple[str, Mapping[str, float]]]]) -> None:
        """Let the metrics show the figures of the local models; how many are loaded are those of state 2."""
        for name, text, family in LOCAL:

            def read(name: str = name) -> Iterable[Sample]:
                return [((model,), float(of[name])) for model, of in figures()]

            self._registry.register(_Read(family, f"llm_call_local_model_{name}", text, ("model",), read))

    def show_surroundings(self, dependencies: Callable[[], Mapping[str, float]], folder: str) -> None:
        """Let the metrics show which dependencies work, and the disk below `folder` (none: "")."""
        text = "1: it works, 0: it does not; as /health/ready has it, a few seconds old at most."
        self.gauge("dependency_up", text, ("dependency",), lambda: [((n,), up) for n, up in dependencies().items()])
        if folder:
            free, size = "Bytes that are left for us on the disk of a folder.", "Bytes of the disk of a folder."
            self.gauge("disk_free_bytes", free, ("path",), lambda: _disk(folder, "f_bavail"))
            self.gauge("disk_size_bytes", size, ("path",), lambda: _disk(folder, "f_blocks"))

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Series[Counter]:
        return Series(Counter(name, text, labels, namespace="llm_call", registry=self._registry))

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Series[Histogram]:
        histogram = Histogram(name, text, labels, namespace="llm_call", registry=self._registry, buckets=bounds)
        series = Series(histogram)
        if not labels:
            series[()] = histogram
        return series


def _disk(folder: str, figure: str) -> Iterator[Sample]:
    with contextlib.suppress(OSError):  # a disk that is gone has no sample
        found = os.statvfs(folder)
        yield (folder,), float(getattr(found, figure) * found.f_frsize)


class _Read(Collector):
    def __init__(
        self, kind: Family, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]
    ) -> None:
        self._kind = kind
        self._family = name, text, labels
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        name, text, labels = self._family
        family = self._kind(name, text, labels=labels)
        for values, sample in self._read():
            family.add_metric(values, sample)
        yield family
