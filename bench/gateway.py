"""The gateway against its peers, in one run: ours, a bare pass-through and LiteLLM's proxy, before one upstream double.

    .venv/bin/python -m bench.gateway [--image] [--rounds 3] [--seconds 4] [--without-litellm] [--json]

One worker each; ours with keys, metrics, request logs and routing on and the cache off. Servers take turns, figures are
medians over the rounds. Added latency is the time through a server less the median straight to the double, one request at a
time, both by turns. LiteLLM is installed from PyPI once, into an environment of its own below SHIPYARD_HOME.
Nothing is pinned to a core: two cores carry load, server and double as the scheduler sees fit. A missed goal is marked;
the exit status is 0 all the same, for figures are no tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from bench import servers
from bench.load import Refused, Target, one_at_a_time, throughput
from bench.servers import Failed, Server

IN_FLIGHT = 16
BATCH = 20
GROWTH_REQUESTS = 50_000
GROWTH_SECONDS = 60.0
WARM_REQUESTS = 1000
WARM_SECONDS = 5.0
START_ROUNDS = 5
IDLE_SECONDS = 1.0
SLOW = "LiteLLM"
"""It is started once, and asked as often as the rounds' seconds allow."""
MS = 1000.0

Start = Callable[[int, Path], AbstractContextManager[Server]]


@dataclass
class Figures:
    """What was measured of one server: seconds, MB, requests a second; a list has one entry per round."""

    starts: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    plain: list[list[float]] = field(default_factory=list)
    stream: list[list[float]] = field(default_factory=list)
    idle: float = 0.0
    warm: float = 0.0
    last: float = 0.0
    served: int = 0

    def row(self) -> dict[str, float]:
        """The figures of the table: medians of the rounds; latencies in ms, growth in % since idle."""
        middle = statistics.median
        return {
            "requests/s": middle(self.rates),
            "processor ms per request": middle(self.costs) * MS,
            "added median ms": middle(middle(each) for each in self.plain) * MS,
            "added p99 ms": middle(p99(each) for each in self.plain) * MS,
            "first byte added median ms": middle(middle(each) for each in self.stream) * MS,
            "first byte added p99 ms": middle(p99(each) for each in self.stream) * MS,
            "start to ready s": middle(self.starts),
            "idle MB": self.idle,
            "warm MB": self.warm,
            "MB at the end": self.last,
            "growth %": (self.last / self.idle - 1) * 100,
            "requests in all": self.served,
        }


class Goal(NamedTuple):
    """A line of issue 3, item 7."""

    text: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.text:<34}{self.value:>10.2f}   goal {sign} {self.limit:<5g}  {'met' if self.met else 'MISSED'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", action="store_true", help="ours runs in its production image")
    parser.add_argument("--rounds", type=_positive, default=3)
    parser.add_argument("--seconds", type=_positive, default=4, help="of each measurement (default: %(default)s)")
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    given = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)  # so that every block's end is reached
    starts: dict[str, Start] = {"ours": servers.ours_in_image if given.image else servers.ours, "bare": servers.bare}
    if not given.without_litellm:
        servers.install_litellm()
        starts[SLOW] = servers.litellm
    try:
        with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
            found = measure(starts, Path(folder), given.rounds, given.seconds)
            report(found, as_json=given.json)
    except (Failed, Refused, TimeoutError) as error:
        sys.exit(f"bench.gateway: {error or 'no answer in time'}")
    except KeyboardInterrupt:
        return 130
    return 0


def measure(starts: dict[str, Start], folder: Path, rounds: int, seconds: int) -> dict[str, Any]:
    """Return the figures of every server and of the double itself."""
    figures = {name: Figures() for name in starts}
    ceilings = []
    # Servers are started and ended outside the event loop, so that Ctrl-C interrupts that too.
    with contextlib.ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        double = stack.enter_context(servers.upstream(folder))
        for name, start in starts.items():
            say(f"{name}: starts")
            for _ in range(0 if name == SLOW else START_ROUNDS - 1):
                with start(double.port, folder) as server:
                    figures[name].starts.append(server.start_seconds)
        running = {name: stack.enter_context(start(double.port, folder)) for name, start in starts.items()}
        time.sleep(IDLE_SECONDS)
        for name, server in running.items():
            figures[name].starts.append(server.start_seconds)
            loop.run(warm_up(figures[name], server))
        for number in range(1, rounds + 1):
            count, took = loop.run(throughput(double, IN_FLIGHT, seconds / 2))
            ceilings.append(count / took)
            for name, server in running.items():
                say(f"round {number} of {rounds}: {name}")
                loop.run(one_round(figures[name], server, double, seconds))
        for name, server in running.items():
            loop.run(grow(figures[name], server, 0 if name == SLOW else GROWTH_REQUESTS))
    return {"double": statistics.median(ceilings), "figures": figures, "cores": len(os.sched_getaffinity(0))}


async def warm_up(figures: Figures, server: Server) -> None:
    figures.idle = server.resident()
    count, _ = await throughput(server.target, IN_FLIGHT, WARM_SECONDS, WARM_REQUESTS)
    figures.served += count
    figures.warm = server.resident()


async def one_round(figures: Figures, server: Server, double: Target, seconds: float) -> None:
    before = server.processor_seconds()
    count, took = await throughput(server.target, IN_FLIGHT, seconds)
    figures.rates.append(count / took)
    figures.costs.append((server.processor_seconds() - before) / count)
    figures.served += count
    for stream, into in ((False, figures.plain), (True, figures.stream)):
        direct, through = await one_at_a_time([double, server.target], seconds / 2, BATCH, stream=stream)
        into.append([each - statistics.median(direct) for each in through])
        figures.served += len(through)


async def grow(figures: Figures, server: Server, requests: int) -> None:
    """Bring the server to so many requests in all, as far as that goes in a minute, and see what it holds then."""
    if requests > figures.served:
        say(f"{requests - figures.served} requests more")
        count, _ = await throughput(server.target, IN_FLIGHT, GROWTH_SECONDS, requests - figures.served)
        figures.served += count
    figures.last = server.resident()


def report(found: dict[str, Any], *, as_json: bool) -> None:
    """Print the table and the goals, or all of it as JSON."""
    rows = {name: each.row() for name, each in found["figures"].items()}
    reached = goals(rows)
    if as_json:
        lines = [{**each._asdict(), "met": each.met} for each in reached]
        print(json.dumps({"double": found["double"], "cores": found["cores"], "figures": rows, "goals": lines}))
        return
    print(f"{found['cores']} cores; load and double alone: {found['double']:.0f} requests/s, {IN_FLIGHT} in flight")
    print(f"{'':<30}" + "".join(f"{name:>10}" for name in rows))
    for label in rows["ours"]:
        print(f"{label:<30}" + "".join(f"{digits(row[label]):>10}" for row in rows.values()))
    print()
    for each in reached:
        print(each.line())


def goals(rows: dict[str, dict[str, float]]) -> list[Goal]:
    """What issue 3 asks of ours, beside what was found."""
    ours, found = rows["ours"], []
    if SLOW in rows:
        ratio = ours["requests/s"] / rows[SLOW]["requests/s"]
        found.append(Goal("requests/s, ours / LiteLLM", ratio, 35, at_least=True))
    return [
        *found,
        Goal("requests/s, ours / bare", ours["requests/s"] / rows["bare"]["requests/s"], 0.5, at_least=True),
        Goal("added latency, median, ms", ours["added median ms"], 0.6),
        Goal("stream's first byte added, ms", ours["first byte added median ms"], 0.6),
        Goal("start to ready, s", ours["start to ready s"], 0.8),
        Goal("resident, idle, MB", ours["idle MB"], 60),
        Goal(f"growth after {ours['requests in all']} requests, %", ours["growth %"], 5),
    ]


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.2f}"


def p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[98]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = "at least 1"
        raise argparse.ArgumentTypeError(msg)
    return value


if __name__ == "__main__":
    sys.exit(main())
