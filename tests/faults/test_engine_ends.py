"""The engine itself: ended, killed, started again, its disk full. An engine of the test's own, in a world of its own."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import shipyard
from tests.support import caller, faults
from tests.support.own_engine import OwnEngine, compose, own_engine
from tests.support.service import wait_until
from tests.support.stack import Checkout

KINDS = (caller.models, caller.chat, caller.cached, caller.stream)
IMAGES = ("api", "claude-proxy", "egress", "redis", "balancer")


class World(NamedTuple):
    """An engine, and a stack in it."""

    engine: OwnEngine
    copy: Checkout


@pytest.fixture(scope="module")
def world(copy: Checkout) -> Iterator[World]:
    """Images as production has them, from the machine's engine; started without the toolkit."""
    copy.extra.append(copy.root / "tests/faults/returning.yaml")
    copy.invoke("build", *(word for name in IMAGES for word in ("--image", name)))
    project = shipyard.config.load(copy.root)
    shipyard.secrets.init(project)
    shipyard.dotenv.write(project)
    outer, images = shipyard.engine.find(), sorted(set(compose(copy, "config", "--images").split()))
    with pytest.MonkeyPatch.context() as patch, own_engine(copy, patch) as engine:
        engine.load(outer, images)
        compose(copy, "up", "--detach", "--wait")
        yield World(engine, copy)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restarted(world: World, number: signal.Signals) -> None:
    """Nobody has to start anything: every service is back with the engine, Redis with its data."""
    engine, copy = world
    word = secrets.token_hex(8)
    assert copy.redis("set", "llm-call:test", word) == "OK"
    started = {service: copy.started(service) for service in ("balancer", "llm-call-api", "redis")}
    with caller.calling(copy, *KINDS, pause=0.1) as record:
        wait_until(lambda: len(record.answers) == len(KINDS), "each kind's first answer", 30)
        engine.end(number)
        engine.start()
        faults.await_recovery(copy, time.monotonic())
    assert record.failures, "the fault did not happen"
    assert [service for service, since in started.items() if copy.started(service) == since] == []
    assert copy.redis("get", "llm-call:test") == word
    with caller.calling(copy, *KINDS) as later:
        wait_until(lambda: min(later.answers[kind.__name__] for kind in KINDS) > 1, "answers of each kind", 30)
    assert later.failures == []


def test_its_disk_is_full(world: World) -> None:
    """Requests are answered, readiness says what is missing; with room again, all is as it was."""
    engine, copy = world
    word, ballast = secrets.token_hex(8), engine.disk / "ballast"
    assert copy.redis("set", "llm-call:test", word) == "OK"
    with caller.calling(copy, *KINDS) as record:
        try:
            fill(engine)
            wait_until(lambda: "MISCONF" in copy.redis("set", "llm-call:more", "x" * 10_000), "Redis to refuse", 30)
            wait_until(lambda: copy.ask("GET", "/health/ready")[1]["status"] == "degraded", "readiness to say so")
            before = record.answers.copy()
            wait_until(
                lambda: all(record.answers[kind.__name__] > before[kind.__name__] + 2 for kind in KINDS), "answers", 30
            )
        finally:
            ballast.unlink()
        faults.await_recovery(copy, time.monotonic())
    assert record.failures == []
    assert copy.redis("get", "llm-call:test") == word


def fill(engine: OwnEngine) -> None:
    """Write to its disk until nothing more goes onto it."""
    with (engine.disk / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
