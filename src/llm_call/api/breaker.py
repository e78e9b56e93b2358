"""Leaves an upstream, or one model of it, alone for a while after it failed several times in a row."""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_call.api.catalog import LONGEST, Target, Upstream
from serving.errors import ApiError

LONGEST_SECONDS = 60.0
"""The pause doubles with every trial that fails, up to this."""

CLOSED, HALF_OPEN, OPEN = 0, 1, 2
"""Values of the metric: requests pass; one is on trial; none passes."""
MOST_MODELS = 1000
"""Of so many models it is known how they fare, those that were asked last: behind a wildcard clients choose the names."""
LONGEST_NAME = 500
"""Characters of a model's name that tell it apart here: a client may send one of megabytes."""


class Breaker:
    """Closed until `upstream.breaker_failures` failures in a row; then open; after the pause one request is a trial.

    `model`: what the upstream calls the model that alone is meant; empty for the whole upstream.
    """

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.monotonic, model: str = "") -> None:
        self.upstream = upstream
        self.model = model
        self._clock = clock
        self._failures = 0
        self._pause = upstream.breaker_seconds
        self._until = 0.0
        self._trial = False
        self._last: ApiError | None = None

    @property
    def state(self) -> int:
        """CLOSED, HALF_OPEN or OPEN."""
        if self._failures < self.upstream.breaker_failures:
            return CLOSED
        return HALF_OPEN if self._trial or self._clock() >= self._until else OPEN

    def admits(self) -> bool:
        """Tell whether a request may go to the upstream; then `succeeded`, `failed` or `abandoned` follows."""
        if self._failures < self.upstream.breaker_failures:
            return True
        if self._trial or self._clock() < self._until:
            return False
        self._trial = True
        return True

    def succeeded(self) -> None:
        """The upstream answered; that it refused the request is an answer too."""
        if self._failures:
            self._failures, self._trial, self._pause = 0, False, self.upstream.breaker_seconds

    def failed(self, error: ApiError) -> None:
        """The upstream did not answer, or failed."""
        self._failures += 1
        self._last = error
        if self._failures < self.upstream.breaker_failures:
            return
        if self._trial:
            self._pause = min(self._pause * 2, max(LONGEST_SECONDS, self.upstream.breaker_seconds))
        if self._trial or self._clock() >= self._until:
            self._until = self._clock() + self._pause
        self._trial = False

    def abandoned(self) -> None:
        """Nobody waits for the answer any more: it tells nothing."""
        self._trial = False

    def refusal(self) -> ApiError:
        """Return what a client is told while the breaker is open."""
        seconds = max(1, round(self._until - self._clock()))
        # Not in its own words: they may quote what another client asked.
        why = f" It last failed with status {self._last.status}." if self._last else ""
        upstream = f'upstream "{self.upstream.name}"'
        what = f'model "{self.model[:LONGEST]}" of the {upstream}' if self.model else upstream
        message = f"The {what} keeps failing and is left alone for {seconds} s.{why}"
        headers = {"x-llm-call-upstream": self.upstream.name, "retry-after": str(seconds)}
        return ApiError(503, message, type="server_error", code="upstream_circuit_open", headers=headers)


class Guard:
    """What a request for one model of an upstream has to pass: the breaker of the server, and that of the model.

    A server that gave an answer, whatever it says, can be reached: only the model is blamed for it, so that one broken
    model does not shut out the others.
    """

    def __init__(self, server: Breaker, model: Breaker) -> None:
        self._server = server
        self._model = model

    def refusal(self) -> ApiError | None:
        """Return why a request may not go; None: it may, and `succeeded`, `failed` or `abandoned` follows."""
        if not self._server.admits():
            return self._server.refusal()
        if not self._model.admits():
            self._server.abandoned()
            return self._model.refusal()
        return None

    def succeeded(self) -> None:
        """The model answered; that it refused the request is an answer too."""
        self._server.succeeded()
        self._model.succeeded()

    def failed(self, error: ApiError, *, answered: bool) -> None:
        """The attempt failed; `answered`: the server had begun an answer, if only to say so."""
        if answered:
            self._server.succeeded()
            self._model.failed(error)
        else:
            self._server.failed(error)
            self._model.abandoned()

    def abandoned(self) -> None:
        """Nobody waits for the answer any more, or it tells nothing."""
        self._server.abandoned()
        self._model.abandoned()


class Breakers:
    """The breakers of all upstreams and of their models, by name: they outlive a reload of the models."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._servers: dict[str, Breaker] = {}
        self._models: dict[tuple[str, str], Breaker] = {}

    def of(self, target: Target) -> Guard:
        """Return what a request to `target` has to pass."""
        upstream, name = target.upstream, target.upstream_name[:LONGEST_NAME]
        server = self._servers.get(upstream.name)
        if server is None:
            server = self._servers[upstream.name] = Breaker(upstream, self._clock)
        # Taken out and put in again, so that the first one is the one that was asked longest ago.
        model = self._models.pop((upstream.name, name), None) or Breaker(upstream, self._clock, name)
        self._models[upstream.name, name] = model
        if len(self._models) > MOST_MODELS:
            del self._models[next(iter(self._models))]
        server.upstream = model.upstream = upstream
        return Guard(server, model)

    def states(self) -> dict[str, int]:
        """Return the state of each upstream that was asked so far: OPEN also while one of its models is left alone."""
        found = {name: each.state for name, each in self._servers.items()}
        for (name, _), each in self._models.items():
            if each.state == OPEN:
                found[name] = OPEN
        return found
