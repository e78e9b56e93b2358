"""kill -9 of each service in turn, and an instance that hangs, under clients that never stop calling."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import caller, faults
from tests.support.service import wait_until
from tests.support.stack import Checkout

INSTANCES = 3
KINDS = (caller.models, caller.cached, *[caller.chat] * 2, *[caller.stream] * 3)
#: A connection that ends, or is refused, as it comes through the engine's proxy for published ports or without it.
CUT = "ConnectionRefusedError|ConnectionResetError|RemoteDisconnected|IncompleteRead|BrokenPipeError"

#: By service: which kinds of requests may fail when it is killed, and what their clients then see.
EFFECTS: dict[str, dict[str, str]] = {
    # The one entrance: nobody is served until it is back; then it takes a moment until it has found the instances.
    "balancer": dict.fromkeys(("models", "cached", "chat", "stream"), rf"{CUT}|503 no_instance|599 no_instance"),
    # What was in flight there and may not be asked twice.
    "llm-call-api": {"chat": "502 instance_lost", "stream": "502 instance_lost|599 instance_lost|IncompleteRead"},
    # Models of the CLI only: at once 502, then 503 while the gateway leaves it alone.
    "claude-proxy": {"through_cli": r"502 upstream_failed|502 upstream_unreachable|503( \w+)?"},
    # The CLI asks again by itself.
    "egress": {},
    "redis": {},
}


@pytest.fixture(scope="module")
def prod(copy: Checkout) -> Iterator[Checkout]:
    copy.invoke("prod", "--scale", f"llm-call-api={INSTANCES}")
    yield copy


def kinds(service: str) -> tuple[Callable[[caller.Client, int], tuple[int, bytes]], ...]:
    return (*KINDS, faults.through_cli) if service in ("claude-proxy", "egress") else KINDS


def answered(record: caller.Record, more: int) -> Callable[[], bool]:
    """Whether each kind has had so many more answers by the time of the call."""
    before = dict(record.answers)
    return lambda: all(record.answers[kind] >= before.get(kind, 0) + more for kind in list(record.answers))


@pytest.mark.parametrize("service", EFFECTS)
def test_killed(prod: Checkout, service: str) -> None:
    """Only what needs it fails, in the way that is named; it is back by itself, with all data."""
    word = secrets.token_hex(8)
    assert prod.redis("set", "llm-call:test", word) == "OK"
    faults.await_recovery(prod, time.monotonic())
    wait_until(lambda: no_breaker_is_open(prod), "every instance's answer through the CLI", faults.RECOVERY)
    victim = prod.containers(service)[0]
    before, said = faults.restarts(prod, victim), len(faults.log(prod, prod.container("balancer")))
    with caller.calling(prod, *kinds(service)) as record:
        wait_until(lambda: len(record.answers) == len({*kinds(service)}), "each kind's first answer", 30)
        faults.kill(prod, victim)
        fault = time.monotonic()
        wait_until(lambda: faults.restarts(prod, victim) == before + 1, "the engine's restart")
        faults.await_recovery(prod, fault)
        wait_until(answered(record, 2), "answers of each kind again", faults.RECOVERY)
    expected = EFFECTS[service]
    found = faults.failures(record)
    assert {(kind, seen) for kind, seen in found if not re.fullmatch(expected.get(kind, "nothing"), seen)} == set()
    assert prod.redis("get", "llm-call:test") == word
    assert service in ("llm-call-api", "redis", "egress") or found.total() > 0, "the fault did not happen"
    if service == "llm-call-api":
        # Two clients of each kind, each with one request under way: no more than these can have been lost.
        assert found.total() <= 2 * sum(kind in (caller.chat, caller.stream) for kind in KINDS)
        assert len(lost(prod, said)) <= 1, "requests were lost at another instance, too"


def no_breaker_is_open(prod: Checkout) -> bool:
    """Whether the CLI answers by each instance: after its own end it is left alone for a while."""
    client = caller.Client(prod, keep=False)
    return all(faults.through_cli(client, number)[0] == 200 for number in range(2 * INSTANCES))


def lost(prod: Checkout, since: int) -> set[object]:
    """Instances at which the balancer has lost requests, by its log from a line on: without a head, or within an answer."""
    said = faults.log(prod, prod.container("balancer"))[since:]
    return {line["instance"] for line in said if line.get("ended") in ("SH", "SD")}


def test_one_hung_instance_is_left_out_and_started_anew(prod: Checkout) -> None:
    """Its connections stay open and say nothing: the balancer notices, and then its own health check ends it."""
    faults.await_recovery(prod, time.monotonic())
    victim = prod.containers("llm-call-api")[0]
    before = faults.restarts(prod, victim)

    def instances() -> int:
        return int(prod.ask("GET", "/health/balancer")[1]["instances"])

    with caller.calling(prod, *KINDS) as record:
        wait_until(lambda: len(record.answers) == len({*KINDS}), "each kind's first answer", 30)
        for process in faults.members(prod, victim):
            os.kill(process, signal.SIGSTOP)
        fault = time.monotonic()
        wait_until(lambda: instances() == INSTANCES - 1, "the balancer without it")
        with caller.calling(prod, *{*KINDS}) as later:
            wait_until(lambda: faults.restarts(prod, victim) == before + 1, "its end", faults.RECOVERY)
            faults.await_recovery(prod, fault)
    assert later.failures == []
    assert min(later.answers.values()) > 1
    found = faults.failures(record)
    assert {kind for kind, _ in found} <= {"chat", "stream"}
    assert {seen for _, seen in found} <= {"502 instance_lost", "599 instance_lost", "IncompleteRead"}
    logged = "".join(file.read_text() for file in faults.log_files(prod, victim))
    assert "in a row); ending process" in logged
