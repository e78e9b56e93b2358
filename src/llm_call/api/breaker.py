"""Leaves an upstream alone for a while after it failed several times in a row."""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_call.api.catalog import Upstream
from serving.errors import ApiError

LONGEST_SECONDS = 60.0
"""The pause doubles with every trial that fails, up to this."""

CLOSED, HALF_OPEN, OPEN = 0, 1, 2
"""Values of the metric: requests pass; one is on trial; none passes."""


class Breaker:
    """Closed until `upstream.breaker_failures` failures in a row; then open; after the pause one request is a trial."""

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.monotonic) -> None:
        self.upstream = upstream
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
        why = f" It last said: {self._last.message}" if self._last else ""
        message = f'The upstream "{self.upstream.name}" keeps failing and is left alone for {seconds} s.{why}'
        headers = {"x-llm-call-upstream": self.upstream.name, "retry-after": str(seconds)}
        return ApiError(503, message, type="server_error", code="upstream_circuit_open", headers=headers)


class Breakers:
    """One breaker for each upstream, by name: it outlives a reload of the models."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}

    def of(self, upstream: Upstream) -> Breaker:
        """Return the breaker of an upstream."""
        breaker = self._breakers.get(upstream.name)
        if breaker is None:
            breaker = self._breakers[upstream.name] = Breaker(upstream)
        breaker.upstream = upstream
        return breaker

    def states(self) -> dict[str, int]:
        """Return the state of each upstream that was asked so far."""
        return {name: each.state for name, each in self._breakers.items()}
