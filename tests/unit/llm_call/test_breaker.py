"""llm_call.api.breaker: open after failures in a row, one trial after the pause."""

from __future__ import annotations

from llm_call.api.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, Breakers
from llm_call.api.catalog import Upstream
from serving.errors import ApiError

UPSTREAM = Upstream("u", "openai", "http://u/v1", 1.0, None, None, breaker_failures=2, breaker_seconds=40.0)
ERROR = ApiError(502, "it is down")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(UPSTREAM, Clock())
    breaker.failed(ERROR)
    breaker.succeeded()
    breaker.failed(ERROR)
    assert (breaker.state, breaker.admits()) == (CLOSED, True)
    breaker.failed(ERROR)
    assert (breaker.state, breaker.admits()) == (OPEN, False)
    refusal = breaker.refusal()
    assert (refusal.status, refusal.code, refusal.headers["retry-after"]) == (503, "upstream_circuit_open", "40")
    assert "it is down" in refusal.message


def test_one_request_is_the_trial_and_a_success_closes_it() -> None:
    clock = Clock()
    breaker = Breaker(UPSTREAM, clock)
    breaker.failed(ERROR)
    breaker.failed(ERROR)
    clock.now += 40
    assert breaker.state == HALF_OPEN
    assert [breaker.admits(), breaker.admits()] == [True, False]
    breaker.succeeded()
    assert [breaker.admits(), breaker.admits()] == [True, True]


def test_a_failed_trial_doubles_the_pause_up_to_a_minute() -> None:
    clock = Clock()
    breaker = Breaker(UPSTREAM, clock)
    breaker.failed(ERROR)
    breaker.failed(ERROR)
    pauses = []
    for _ in range(3):
        clock.now += float(breaker.refusal().headers["retry-after"])
        assert breaker.admits()
        breaker.failed(ERROR)
        pauses.append(breaker.refusal().headers["retry-after"])
    assert pauses == ["60", "60", "60"]


def test_a_trial_that_nobody_waits_for_makes_room_for_the_next() -> None:
    clock = Clock()
    breaker = Breaker(UPSTREAM, clock)
    breaker.failed(ERROR)
    breaker.failed(ERROR)
    clock.now += 40
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.admits()


def test_requests_that_were_under_way_do_not_prolong_the_pause() -> None:
    clock = Clock()
    breaker = Breaker(UPSTREAM, clock)
    breaker.failed(ERROR)
    breaker.failed(ERROR)
    clock.now += 30
    breaker.failed(ERROR)
    assert breaker.refusal().headers["retry-after"] == "10"


def test_breakers_outlive_a_reload() -> None:
    breakers = Breakers()
    for _ in range(2):
        breakers.of(UPSTREAM).failed(ERROR)
    again = Upstream("u", "openai", "http://elsewhere/v1", 1.0, None, None, breaker_failures=2)
    assert not breakers.of(again).admits()
    assert breakers.states() == {"u": OPEN}
