"""How long production takes to start, and what clients lose: when one of three instances is killed, and when the phase changes.

.venv/bin/python -m bench.faults [--runs 5] [--rate 200] [--seconds 10]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import show
from tests.support import caller, faults
from tests.support.own_engine import compose
from tests.support.stack import Checkout, checkout

Kind = Callable[[caller.Client, int], tuple[int, bytes]]
#: Half of the requests may be sent again, half may not.
KINDS: tuple[Kind, ...] = (caller.cached, caller.chat)
#: Each with a connection of its own, which it keeps; none waits for another one.
CLIENTS = 40
#: Seconds from `up` to all healthy that production may take with its images there.
START_LIMIT = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description="What faults cost")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="under load")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, checkout(Path(folder)) as copy:
        copy.invoke("prod")  # builds what is missing
        starts(copy, given.runs)
        for number in range(given.runs):
            print(f"one of three killed, run {number + 1}: {killed(copy, given.rate, given.seconds)}")
        print(f"phase 2 to 3: {moved(copy, given.rate)}")


def starts(copy: Checkout, runs: int) -> None:
    """`invoke prod` and plain Compose by turns, each from nothing to every service healthy."""
    times: tuple[list[float], list[float]] = ([], [])
    both: tuple[Callable[[], object], ...] = (partial(copy.invoke, "prod"), partial(up, copy))
    for _ in range(runs):
        for into, start in zip(times, both, strict=True):
            copy.invoke("down")
            begin = time.perf_counter()
            start()
            into.append(time.perf_counter() - begin)
    show("invoke prod to all healthy", times[0], "docker compose up --wait", times[1])
    within = sum(each <= START_LIMIT for each in times[0])
    print(f"    within {START_LIMIT:g} s: {within} of {runs}")


def up(copy: Checkout) -> None:
    """The peer: no checks of inputs, secrets, policy and ports, no look whether the balancer has found the API."""
    compose(copy, "up", "--detach", "--wait")


def killed(copy: Checkout, rate: float, seconds: float) -> str:
    """What the clients saw of it."""
    copy.invoke("prod", "--scale", "llm-call-api=3")
    faults.await_recovery(copy, time.monotonic())
    victim, balancer = copy.containers("llm-call-api")[0], copy.container("balancer")
    before = len(faults.log(copy, balancer))
    with paced(copy, rate) as record:
        time.sleep(seconds / 2)
        faults.kill(copy, victim)
        fault = time.monotonic()
        time.sleep(seconds / 2)
    took = faults.await_recovery(copy, fault)
    said = faults.log(copy, balancer)[before:]
    again = sum(bool(line.get("retries")) for line in said)
    return f"{told(record)}; {again} sent again elsewhere; all well after {took:.1f} s"


def moved(copy: Checkout, rate: float) -> str:
    """The same for a move that nobody should notice."""
    copy.invoke("hybrid")
    with paced(copy, rate) as record:
        begin = time.perf_counter()
        copy.invoke("prod")
        took = time.perf_counter() - begin
    return f"{told(record)}; {took:.1f} s"


@contextmanager
def paced(copy: Checkout, rate: float) -> Iterator[caller.Record]:
    """Requests at a fixed rate while the block runs, each kind by as many clients; who is late catches up."""
    record, over = caller.Record(), threading.Event()

    def run(kind: Kind, number: int) -> None:
        client, due = caller.Client(copy, keep=True), record.begun + number / rate
        while not over.wait(max(due - time.monotonic(), 0)):
            try:
                status, text = kind(client, number)
                record.answers[kind.__name__] += 1
                if status != 200:
                    record.failed(kind.__name__, f"{status} {text[:200]!r}")
            except OSError as problem:
                record.failed(kind.__name__, f"{type(problem).__name__} {problem}")
            due += CLIENTS / rate
        client.close()

    threads = [threading.Thread(target=run, args=(KINDS[n % len(KINDS)], n)) for n in range(CLIENTS)]
    for each in threads:
        each.start()
    try:
        yield record
    finally:
        over.set()
        for each in threads:
            each.join()


def told(record: caller.Record) -> str:
    """Rate, and answers and failures by kind."""
    elapsed = time.monotonic() - record.begun
    lost = Counter(kind for (kind, _), count in faults.failures(record).items() for _ in range(count))
    parts = [f"{kind.__name__}: {lost[kind.__name__]} failed of {record.answers[kind.__name__]}" for kind in KINDS]
    return f"{sum(record.answers.values()) / elapsed:.0f} requests/s; {', '.join(parts)}"


if __name__ == "__main__":
    main()
