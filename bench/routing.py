"""Learned routing over three simulated upstreams, against simpler policies on the same requests. No network, no clock.

.venv/bin/python -m bench.routing [RUNS [REQUESTS_PER_SECOND]]

A run is REQUESTS requests, then as many after the best and the worst upstream have changed places. A policy has
arrived when its last WINDOW requests got GOAL of the expected reward of the best upstream. Rewards are those of
llm_call.api.thompson; the peers are told them, with the true means, which the gateway has to estimate.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from llm_call.api import arms, thompson

REQUESTS = 1000
WINDOW = 50
GOAL = 0.9
SPREAD = 0.4  # sigma of the lognormal latency and price


@dataclass(frozen=True)
class Upstream:
    """Probability of success, median seconds, mean US dollars."""

    success: float
    seconds: float
    cost: float


GOOD, FAIR, POOR = Upstream(0.98, 0.8, 0.002), Upstream(0.90, 2.0, 0.004), Upstream(0.55, 3.0, 0.001)
BEFORE, AFTER = (GOOD, FAIR, POOR), (POOR, FAIR, GOOD)


@dataclass(frozen=True)
class Answer:
    """What a policy hears of a request."""

    arm: int
    ok: bool
    seconds: float
    cost: float
    reward: float


def worth(upstreams: Sequence[Upstream]) -> list[float]:
    """Return the reward of a success of each."""
    fastest, cheapest = min(each.seconds for each in upstreams), min(each.cost for each in upstreams)
    return [thompson.reward(1.0, fastest / each.seconds, cheapest / each.cost) for each in upstreams]


class Policy(Protocol):
    def choose(self, now: float) -> int: ...

    def learn(self, answer: Answer, now: float) -> None: ...


class Static:
    """Always the first of the list, as with ordered fallbacks: the best, until things change."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def choose(self, now: float) -> int:
        return 0

    def learn(self, answer: Answer, now: float) -> None:
        """Nothing."""


class Uniform(Static):
    def choose(self, now: float) -> int:
        return self.rng.randrange(3)


class Greedy(Static):
    """Epsilon-greedy with epsilon 0.1, over all it has ever seen."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.pulls, self.sums = [0] * 3, [0.0] * 3

    def choose(self, now: float) -> int:
        if 0 in self.pulls:
            return self.pulls.index(0)
        if self.rng.random() < 0.1:
            return self.rng.randrange(3)
        return max(range(3), key=lambda arm: self.sums[arm] / self.pulls[arm])

    def learn(self, answer: Answer, now: float) -> None:
        self.pulls[answer.arm] += 1
        self.sums[answer.arm] += answer.reward


class Ucb(Greedy):
    """UCB1 of Auer, Cesa-Bianchi and Fischer (2002)."""

    def choose(self, now: float) -> int:
        if 0 in self.pulls:
            return self.pulls.index(0)
        scale = 2 * math.log(sum(self.pulls))
        return max(range(3), key=lambda arm: self.sums[arm] / self.pulls[arm] + math.sqrt(scale / self.pulls[arm]))


class Learned:
    """`instances` gateways, each asked by chance. Once a second each merges what the others published a second ago."""

    def __init__(self, rng: random.Random, instances: int = 1) -> None:
        self.rng = rng
        self.instances = [arms.Evidence(0.0) for _ in range(instances)]
        self.published = [b"{}"] * instances
        self.second = 0
        self.asked = 0

    def choose(self, now: float) -> int:
        if int(now) > self.second:
            self.second = int(now)
            self._exchange(now)
        self.asked = self.rng.randrange(len(self.instances))
        return thompson.order(self.instances[self.asked].arms("abc"), self.rng)[0]

    def learn(self, answer: Answer, now: float) -> None:
        measures = thompson.measured(answer.seconds, answer.cost)
        self.instances[self.asked].record("abc"[answer.arm], now, answer.ok, *measures)

    def _exchange(self, now: float) -> None:
        for number, each in enumerate(self.instances):
            others = [text for other, text in enumerate(self.published) if other != number]
            each.merge(map(arms.parse, others), now)
        self.published = [each.export() or b"{}" for each in self.instances]


@dataclass(frozen=True)
class Outcome:
    """Requests until the goal was reached, at first and after the change (None: never); the best arm's share between.

    `gain` is all that was got, as a share of what the best arms would have got.
    """

    first: int | None
    share: float
    again: int | None
    gain: float


def play(policy: Policy, seed: int, per_second: float) -> Outcome:
    """One run. The same seed gives the same luck to every policy."""
    rng = random.Random(seed)
    reached: list[int | None] = []
    share = gain = most = 0.0
    for phase, upstreams in enumerate((BEFORE, AFTER)):
        values = worth(upstreams)
        best = max(range(3), key=lambda arm: values[arm] * upstreams[arm].success)
        goal = GOAL * values[best] * upstreams[best].success
        rewards: list[float] = []
        chosen: list[int] = []
        for number in range(REQUESTS):
            now = (phase * REQUESTS + number) / per_second
            arm = policy.choose(now)
            upstream, luck = upstreams[arm], rng.random()
            noise = [math.exp(rng.gauss(0, SPREAD)) for _ in range(2)]
            ok = luck < upstream.success
            answer = Answer(arm, ok, upstream.seconds * noise[0], upstream.cost * noise[1], values[arm] * ok)
            policy.learn(answer, now)
            rewards.append(answer.reward)
            chosen.append(arm)
        reached.append(arrival(rewards, goal))
        gain += sum(rewards)
        most += goal / GOAL * REQUESTS
        if phase == 0 and reached[0] is not None:
            later = chosen[reached[0] :]
            share = later.count(best) / max(len(later), 1)
    return Outcome(reached[0], share, reached[1], gain / most)


def arrival(rewards: Sequence[float], goal: float) -> int | None:
    """Return the number of requests after which the mean of the last WINDOW rewards was at least `goal`."""
    total = sum(rewards[: WINDOW - 1])
    for end in range(WINDOW, len(rewards) + 1):
        total += rewards[end - 1]
        if total / WINDOW >= goal:
            return end
        total -= rewards[end - WINDOW]
    return None


def median(values: Sequence[int | None]) -> float:
    """Return the median, where None is longer than any number."""
    return statistics.median(math.inf if each is None else each for each in values)


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "learned, 1 instance": Learned,
    "learned, 2 instances": lambda rng: Learned(rng, 2),
    "learned, 4 instances": lambda rng: Learned(rng, 4),
    "epsilon-greedy 0.1": Greedy,
    "UCB1": Ucb,
    "uniform random": Uniform,
    "static order": Static,
}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    per_second = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    print(
        f"{runs} runs, {per_second:g} requests per second; median requests until {GOAL:.0%} of the best arm's reward is"
    )
    print("reached, at first and again after the best arm changed; in brackets the share of runs that took at most 300")
    print(f"{'':22}{'first':>13}{'best arm':>10}{'again':>13}{'reward':>8}   ratio to learned: first, again")
    base: tuple[float, float] | None = None
    for name, make in POLICIES.items():
        outcomes = [play(make(random.Random(-seed - 1)), seed, per_second) for seed in range(runs)]
        first, again = [each.first for each in outcomes], [each.again for each in outcomes]
        base = base or (median(first), median(again))
        share, gain = (statistics.mean(column) for column in zip(*((o.share, o.gain) for o in outcomes), strict=True))
        print(
            f"{name:22}{brief(first):>13}{share:10.1%}{brief(again):>13}{gain:8.1%}"
            f"   {median(first) / base[0]:.2f}, {median(again) / base[1]:.2f}",
            flush=True,
        )


def brief(reached: Sequence[int | None]) -> str:
    """Return the median and the share of runs that were there within 300 requests."""
    quick = sum(each is not None and each <= 300 for each in reached) / len(reached)
    return f"{median(reached):.0f} ({quick:.0%})"


if __name__ == "__main__":
    main()
