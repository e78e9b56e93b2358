"""Thompson sampling over what was seen of each arm. Pure arithmetic: no clock, no input or output.

The reward of an answer lies in 0..1:

    quality * (SUCCESS + LATENCY * fastest / seconds + PRICE * cheapest / cost)

quality is 0 for a failure, the user's rating if there is one, else 1. The fractions compare an arm with the best arm of
the same route, so there is no absolute scale of seconds or dollars. They are taken of means over the remembered answers
and anew at every choice: what was learned yesterday does not depend on what was fastest yesterday.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

SUCCESS, LATENCY, PRICE = 0.6, 0.2, 0.2
"""Shares of the reward, summing to 1: a sure answer is worth more than a fast and a cheap one together."""
UNKNOWN_PRICE = 0.5
"""Stands for cheapest / cost where no price is known: neither cheap nor dear."""
FREE_HALVES = 0.5
"""With a free arm in the route, the cheapest of the others gets this much of the share of the price."""
PRIOR = 1.0
"""Alpha and beta before the first answer: every reward is as likely as any other, which lets every arm be tried."""
SHORTEST_SECONDS, LONGEST_SECONDS = 1e-3, 1e5
HIGHEST_COST = 1e6
"""Bounds in which a measurement, and a mean, is believed. They keep all numbers finite."""


@dataclass(slots=True)
class Sums:
    """What was seen of an arm, as sums: those of several instances, and of several times, add up.

    `log_seconds` sums the logarithms of seconds, of which `timed` are known: one answer of ten minutes among a hundred
    of a second must not condemn an arm. `cost` sums US dollars, of which `priced` are known.
    """

    pulls: float = 0.0
    successes: float = 0.0
    quality: float = 0.0
    timed: float = 0.0
    log_seconds: float = 0.0
    priced: float = 0.0
    cost: float = 0.0

    def add(self, ok: bool, log_seconds: float | None, cost: float | None) -> None:
        """Count one answer; the quality of an unrated success is 1."""
        self.pulls += 1.0
        if ok:
            self.successes += 1.0
            self.quality += 1.0
            if log_seconds is not None:
                self.timed += 1.0
                self.log_seconds += log_seconds
            if cost is not None:
                self.priced += 1.0
                self.cost += cost

    def include(self, other: Sums, weight: float = 1.0) -> None:
        """Add another's sums, each times `weight`."""
        self.pulls += other.pulls * weight
        self.successes += other.successes * weight
        self.quality += other.quality * weight
        self.timed += other.timed * weight
        self.log_seconds += other.log_seconds * weight
        self.priced += other.priced * weight
        self.cost += other.cost * weight

    @property
    def seconds(self) -> float | None:
        """Geometric mean of the latency in seconds, if any is known."""
        if self.timed <= 0.0:
            return None
        return math.exp(_within(_LOG_SHORTEST, self.log_seconds / self.timed, _LOG_LONGEST))

    @property
    def price(self) -> float | None:
        """Mean cost of an answer in US dollars, if any is known."""
        return _within(0.0, self.cost / self.priced, HIGHEST_COST) if self.priced > 0.0 else None


_LOG_SHORTEST, _LOG_LONGEST = math.log(SHORTEST_SECONDS), math.log(LONGEST_SECONDS)


def _within(low: float, value: float, high: float) -> float:
    # min(max(...)) takes three times as long, and this runs for every request.
    return low if value < low else high if value > high else value


def measured(seconds: float, cost: float | None) -> tuple[float | None, float | None]:
    """Return the logarithm of `seconds` and `cost`, each None unless it is a believable number."""
    believable = 0.0 < seconds < math.inf
    log_seconds = math.log(_within(SHORTEST_SECONDS, seconds, LONGEST_SECONDS)) if believable else None
    return log_seconds, cost if cost is not None and 0.0 <= cost <= HIGHEST_COST else None


def reward(quality: float, speed: float, thrift: float) -> float:
    """Return the reward of an answer; all three and the result are in 0..1."""
    return quality * (SUCCESS + LATENCY * speed + PRICE * thrift)


def beliefs(arms: Sequence[Sums]) -> list[tuple[float, float]]:
    """Return alpha and beta of the Beta distribution of each arm's expected reward. The arms are those of one route."""
    seconds = [each.seconds for each in arms]
    prices = [each.price for each in arms]
    fastest = min((each for each in seconds if each is not None), default=None)
    cheapest = min((each for each in prices if each), default=None)
    free = 0.0 in prices
    return [
        _belief(each, _ratio(fastest, took), _thrift(cheapest, price, free))
        for each, took, price in zip(arms, seconds, prices, strict=True)
    ]


def order(arms: Sequence[Sums], rng: random.Random) -> list[int]:
    """Return the indices of the arms by a reward drawn for each from what is believed of it, best first."""
    drawn = [rng.betavariate(alpha, beta) for alpha, beta in beliefs(arms)]
    return sorted(range(len(arms)), key=drawn.__getitem__, reverse=True)


def _belief(arm: Sums, speed: float, thrift: float) -> tuple[float, float]:
    # Ratings arrive as corrections, perhaps after a part of the answers was forgotten: hence the bounds.
    good = reward(_within(0.0, arm.quality, arm.pulls), speed, thrift)
    return PRIOR + good, PRIOR + arm.pulls - good


def _ratio(best: float | None, own: float | None) -> float:
    return best / own if best is not None and own is not None else 1.0


def _thrift(cheapest: float | None, price: float | None, free: bool) -> float:
    if price is None:
        return UNKNOWN_PRICE
    if price == 0.0 or cheapest is None:
        return 1.0
    return cheapest / price * (FREE_HALVES if free else 1.0)
