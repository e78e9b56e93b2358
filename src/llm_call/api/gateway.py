"""The parts that all requests share, and the exchange of the catalog under them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from llm_call.api.attempts import Attempts
from llm_call.api.breaker import Breakers
from llm_call.api.cache import Cache
from llm_call.api.call import Call
from llm_call.api.catalog import Catalog, Route, Target
from llm_call.api.flights import Flights
from llm_call.api.learning import Learner, rated_as
from llm_call.api.telemetry import Telemetry
from llm_call.api.upstreams import Upstreams
from serving.settings import SettingsError

log = logging.getLogger("llm_call")


class Gateway:
    """`cache` and `learner` are None where they are switched off; then nothing of them runs.

    `body_limit` in bytes; `keep_alive`: the longest silence of a stream in seconds, 0 for any.
    """

    def __init__(
        self,
        catalog: Catalog,
        pool: Upstreams,
        telemetry: Telemetry,
        *,
        cache: Cache | None,
        learner: Learner | None,
        body_limit: int,
        keep_alive: float,
    ) -> None:
        self.catalog = catalog
        self.pool = pool
        self.telemetry = telemetry
        self.cache = cache
        self.learner = learner
        self.body_limit = body_limit
        self.keep_alive = keep_alive
        self.breakers = Breakers()
        self.flights = Flights()
        self.attempts = Attempts(pool, self.breakers, self._outcome, telemetry.tokens)

    def show_gauges(self) -> None:
        """Let the metrics show the state of breakers and arms."""
        gauge = self.telemetry.gauge
        gauge(
            "breaker_state",
            "0 closed, 1 on trial, 2 open: the upstream, or one of its models, is left alone.",
            ("upstream",),
            lambda: [((name,), float(state)) for name, state in self.breakers.states().items()],
        )
        self.telemetry.show_local(self.pool.figures)
        if self.learner:
            gauge("arm_reward", "Mean reward of a learned route's arm.", ("route", "arm"), lambda: self._arms("reward"))
            gauge("arm_pulls", "How often an arm was chosen.", ("route", "arm"), lambda: self._arms("pulls"))

    async def start(self) -> None:
        """Open what belongs to the event loop."""
        await self.pool.start()
        self.pool.house(self.catalog.recipes())
        if self.learner:
            # Names the routes, so that the first exchange brings what the others saw of them.
            self.learner.report(self.learned())
            await self.learner.start()

    async def close(self) -> None:
        """End what is on its way and close all connections."""
        await self.flights.close()
        if self.learner:
            await self.learner.close()
        await self.pool.close()

    def learned(self) -> dict[str, list[str]]:
        """Return the arms of each learned route."""
        routes = self.catalog.routes.items()
        return {name: [target.model for target in route.targets] for name, route in routes if route.learned}

    def order(self, route: Route) -> Sequence[Target]:
        """Return a route's targets in the order in which they are to be tried."""
        if not self.learner or not route.learned:
            return route.targets
        named = {target.model: target for target in route.targets}
        return [named[name] for name in self.learner.order(route.name, list(named))]

    def reload(self, read: Callable[[], Catalog]) -> None:
        """Exchange the catalog; what runs keeps the old one. With faults in it, it is logged and nothing changes."""
        try:
            self.catalog = read()
        except SettingsError as error:
            self.telemetry.reloaded(ok=False)
            log.error("models not reloaded: %s", "; ".join(error.faults))
        else:
            self.pool.house(self.catalog.recipes())
            self.telemetry.reloaded(ok=True)
            log.info("models reloaded", extra={"models": len(self.catalog.routes)})

    def _arms(self, figure: str) -> Iterator[tuple[tuple[str, str], float]]:
        assert self.learner, "only shown where it is on"
        for route, told in self.learner.report(self.learned())["routes"].items():
            for arm, figures in told["arms"].items():
                if figures.get(figure) is not None:
                    yield (route, arm), float(figures[figure])

    def _outcome(self, call: Call, target: Target, ok: bool, seconds: float) -> None:
        cost = call.usage.cost(target.price) if ok and call.usage else None
        self.telemetry.attempt(target, ok, cost)
        if self.learner and call.route.learned:
            ident = rated_as(call.client, call.ident)
            self.learner.record(call.route.name, target.model, ident, ok=ok, seconds=seconds, cost=cost)
