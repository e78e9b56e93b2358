"""Learned routing: which arm to ask first, from what all instances of the gateway saw. Choosing and recording touch no
network; a task in the background exchanges what was learned with the other instances.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llm_call.api import thompson
from llm_call.api.arms import Evidence
from llm_call.api.shared import Answered, Shared
from serving.keys_file import Key, scope_of

if TYPE_CHECKING:
    from llm_call.api.store import Store

log = logging.getLogger("llm_call.learning")

EXCHANGE_SECONDS = 1.0
"""Pause between two exchanges while there is something to say."""
POLL_SECONDS = 10.0
"""Pause between two exchanges while there is not."""
PENDING = 10_000
"""Answers of which Redis was not told yet; when there are more, the oldest ones cannot be rated any more."""
AT_ONCE = 250
"""Answers per message to Redis: about a millisecond of work."""
LONGEST_ID = 128
"""Characters of a request id."""


def rated_as(key: Key | None, ident: str) -> str:
    """Return the id under which an answer can be rated: with the key's scope, for clients choose their requests' ids."""
    return sha256(scope_of(key) + ident.encode()).hexdigest()


class Learner:
    """Call `order` before the first attempt and `record` after each. The caller bounds the number of routes and arms.

    While Redis is down, or where there is none, an instance learns from what it sees itself.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float] = time.time, rng: random.Random | None = None
    ) -> None:
        self._shared = Shared(store)
        self._clock = clock
        self._rng = rng or random.Random()
        self._routes: dict[str, Evidence] = {}
        self._pending: OrderedDict[str, Answered] = OrderedDict()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin the exchange with the other instances."""
        self._wake.set()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Tell the others the last news, if Redis answers, and end."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.exchange()

    def order(self, route: str, arms: Sequence[str]) -> list[str]:
        """Return the arms by a reward drawn for each from what is known of it, best first."""
        return [arms[index] for index in thompson.order(self._route(route).arms(arms), self._rng)]

    def record(self, route: str, arm: str, request_id: str, *, ok: bool, seconds: float, cost: float | None) -> None:
        """Learn from an attempt: `seconds` until its end or, of a stream, its first byte; `cost` in US dollars if known.

        An id recorded again, as by a fallback, belongs to the later attempt.
        """
        log_seconds, price = thompson.measured(seconds, cost)
        self._route(route).record(arm, self._clock(), ok, log_seconds, price)
        self._pending[request_id] = Answered(route, arm, ok, 1.0 if ok else 0.0)
        if len(self._pending) > PENDING:
            self._pending.popitem(last=False)
        if not self._wake.is_set():
            self._wake.set()

    async def rate(self, request_id: str, rating: float) -> bool:
        """Let a rating of 0..1 stand for the quality of an earlier answer, of any instance; the last rating counts.

        It has the weight of an answer of now; a failure stays one. Returns whether the id is known. Raises ValueError for
        another rating.
        """
        if not 0.0 <= rating <= 1.0:
            msg = f"a rating is a number from 0 to 1, not {rating!r}"
            raise ValueError(msg)
        if not (request_id.isascii() and 0 < len(request_id) <= LONGEST_ID):
            return False
        before = self._pending.get(request_id)
        if before:
            self._pending[request_id] = before.rated(rating)
        else:
            before = await self._shared.swap(request_id, rating)
        if before is None:
            return False
        change = before.rated(rating).quality - before.quality
        self._route(before.route).correct(before.arm, change)
        self._wake.set()
        return True

    def report(self, routes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return what is known of each route's arms, and whether Redis is reached.

        Pulls, success rate and share are over the answers that still count; the rest discounts the older of them:
        alpha and beta, the mean reward that they stand for, seconds and US dollars.
        """
        described = {name: _describe(self._route(name), arms) for name, arms in routes.items()}
        return {"redis": self._shared.reached, "routes": described}

    async def exchange(self) -> None:
        """Read what the other instances saw and tell them what they do not know yet; without Redis, nothing happens."""
        if not await self._shared.exchange(dict(self._routes), self._clock()):
            return
        waiting = iter(list(self._pending.items()))
        while some := dict(itertools.islice(waiting, AT_ONCE)):
            if not await self._shared.remember(some):
                return
            for ident, each in some.items():
                # One that was rated meanwhile is another one, and goes out the next time.
                if self._pending.get(ident) is each:
                    del self._pending[ident]

    def _route(self, name: str) -> Evidence:
        found = self._routes.get(name)
        if found is None:
            found = self._routes[name] = Evidence(self._clock())
            self._wake.set()  # the others may know it
        return found

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.exchange()
            except Exception:
                log.exception("the exchange failed; routing goes on with what this instance sees")
            if not self._shared.reached:
                self._wake.set()  # there may be something to say once Redis is back
            await asyncio.sleep(EXCHANGE_SECONDS)


def _describe(route: Evidence, arms: Sequence[str]) -> dict[str, Any]:
    discounted, plain = route.arms(arms), route.remembered(arms)
    beliefs = thompson.beliefs(discounted)
    pulls = sum(each.pulls for each in plain)
    means = [alpha / (alpha + beta) for alpha, beta in beliefs]
    table = {
        arm: {
            "pulls": round(seen.pulls),
            "share": seen.pulls / pulls if pulls else 0.0,
            "success_rate": seen.successes / seen.pulls if seen.pulls else None,
            "reward": mean,
            "alpha": alpha,
            "beta": beta,
            "latency_seconds": sums.seconds,
            "cost_usd": sums.price,
        }
        for arm, seen, sums, mean, (alpha, beta) in zip(arms, plain, discounted, means, beliefs, strict=True)
    }
    best = (
        max((mean, arm) for mean, arm, seen in zip(means, arms, plain, strict=True) if seen.pulls)[1] if pulls else None
    )
    return {"best": best, "arms": table}
