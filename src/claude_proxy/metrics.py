"""What GET /metrics tells about the CLIs; the process and HTTP as such are told by `serving.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from claude_proxy import failures, models
from claude_proxy.events import Event, Finished, Started, Text, Usage
from serving.metrics import SECONDS, Metrics, Series

PREFIX = "claude_proxy"
FULL = "full-name"
"""The label of every model that has no short name: clients write what they like there."""
OUTCOMES = {"claude_proxy_busy": "refused", "deadline_exceeded": "deadline"}
"""By the code of an error; any other is told by `failed`."""
ENDED = {code: bound for bound, (code, *_) in failures.OVER.items()}
"""By the code of an error: the bound that the request passed."""
KINDS = {"input": "fresh", "cache_write": "cache_written", "cache_read": "cache_read", "output": "output"}


class Figures:
    """The service's metrics. `running` and `waiting` are asked when somebody looks."""

    def __init__(
        self,
        running: Callable[[], int],
        waiting: Callable[[], int],
        spare: Callable[[], int],
        runners: Callable[[], int] | None = None,
    ) -> None:
        self.all = Metrics(PREFIX)
        own: dict[str, Any] = {"namespace": PREFIX, "registry": self.all.registry}
        outcomes = "Requests by model and outcome: ok, failed, refused (too many), deadline, disconnected."
        self.requests = Series(Counter("requests", outcomes, ("model", "outcome"), **own))
        self.seconds = Series(Histogram("seconds", "Until the end of an answer.", ("model",), buckets=SECONDS, **own))
        first = "Until the first piece of text, from the request's arrival."
        self.first = Series(Histogram("first_token_seconds", first, ("model", "start"), buckets=SECONDS, **own))
        self.tokens = Series(Counter("tokens", "Tokens by model and kind.", ("model", "kind"), **own))
        self.cost = Series(Counter("cost_usd", "What the CLI reckons, in US dollars.", ("model",), **own))
        self.ended = Series(Counter("requests_ended", "Requests ended because they took too much.", ("bound",), **own))
        self.starts = Series(Counter("cli_starts", "CLIs that requests got: ahead or cold.", ("start",), **own))
        told = "Calls of the model that runs made at the gate, by outcome: passed, or why it was refused."
        self.calls = Series(Counter("model_calls", told, ("outcome",), **own))
        self.counted = Counter(
            "model_tokens", "Tokens of those calls, input and output, as the provider counts.", **own
        )
        Gauge("cli_running", "CLIs that answer a request.", **own).set_function(running)
        Gauge("cli_ahead", "CLIs that were started ahead and wait.", **own).set_function(spare)
        Gauge("queue", "Requests that wait for a CLI.", **own).set_function(waiting)
        if runners:
            Gauge("runners", "Runners that are connected.", **own).set_function(runners)

    def passed(self, calls: int, tokens: int, refused: str) -> None:
        """Count what the gate tells."""
        if refused:
            self.calls[refused,].inc()
        elif calls:
            self.calls["passed",].inc(calls)
        self.counted.inc(tokens)

    def begin(self, model: str) -> Observed:
        """Follow one request."""
        return Observed(self, model if model in models.ALIASES else FULL)


class Observed:
    """One request from its arrival to its end."""

    def __init__(self, figures: Figures, model: str) -> None:
        self._figures = figures
        self._model = model
        self._began = time.perf_counter()
        self._spoken = False
        self._start = "cold"

    def note(self, event: Event) -> None:
        """Take an event of the call."""
        figures = self._figures
        if isinstance(event, Started):
            self._start = "ahead" if event.ahead else "cold"
            figures.starts[self._start,].inc()
        if isinstance(event, Text) and not self._spoken:
            self._spoken = True
            figures.first[self._model, self._start].observe(time.perf_counter() - self._began)
        if isinstance(event, Finished):
            self._count(event.usage)
            figures.cost[self._model,].inc(event.cost or 0.0)

    def end(self, code: str | None) -> None:
        """Count the end; `code` is that of the error, or `ok` or `disconnected`."""
        outcome = code if code in ("ok", "disconnected") else OUTCOMES.get(code or "", "failed")
        self._figures.requests[self._model, outcome].inc()
        if code in ENDED:
            self._figures.ended[ENDED[code],].inc()
        self._figures.seconds[self._model,].observe(time.perf_counter() - self._began)

    def _count(self, usage: Usage) -> None:
        for kind, name in KINDS.items():
            self._figures.tokens[self._model, kind].inc(getattr(usage, name))
