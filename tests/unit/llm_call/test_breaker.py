"""llm_call.api.breaker: open after failures in a row, one trial after the pause; what concerns one model counts for it."""

from __future__ import annotations

from llm_call.api.breaker import CLOSED, HALF_OPEN, LONGEST_NAME, MOST_MODELS, OPEN, Breaker, Breakers
from llm_call.api.catalog import Target, Upstream
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
    assert "status 502" in refusal.message
    assert "it is down" not in refusal.message  # it may quote what another client asked


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


def target(name: str = "m", upstream: Upstream = UPSTREAM) -> Target:
    return Target("u/*", upstream, name, 1.0, 0)


def test_breakers_outlive_a_reload() -> None:
    breakers = Breakers()
    for answered in (False, False, True, True):
        breakers.of(target("m" if answered else "n")).failed(ERROR, answered=answered)
    again = Upstream("u", "openai", "http://elsewhere/v1", 1.0, None, None, breaker_failures=2)
    assert breakers.of(target("m", again)).refusal()
    assert breakers.of(target("n", again)).refusal() is None
    assert breakers.states() == {"u": OPEN}


def test_an_answer_that_fails_shuts_out_its_model_alone() -> None:
    breakers = Breakers()
    for _ in range(2):
        breakers.of(target("bad")).failed(ERROR, answered=True)
        assert breakers.of(target("good")).refusal() is None
    refusal = breakers.of(target("bad")).refusal()
    assert refusal
    assert (refusal.status, refusal.code) == (503, "upstream_circuit_open")
    assert refusal.message.startswith('The model "bad" of the upstream "u" keeps failing')
    assert breakers.states() == {"u": OPEN}
    breakers.of(target("bad")).succeeded()
    assert breakers.states() == {"u": CLOSED}


def test_a_server_that_gives_no_answer_shuts_out_all_its_models() -> None:
    breakers = Breakers()
    for name in ("a", "b"):
        breakers.of(target(name)).failed(ERROR, answered=False)
    refusal = breakers.of(target("c")).refusal()
    assert refusal
    assert refusal.message.startswith('The upstream "u" keeps failing')


def test_any_answer_says_that_the_server_is_there() -> None:
    breakers = Breakers()
    for answered in (False, True, False):
        breakers.of(target()).failed(ERROR, answered=answered)
    assert breakers.of(target()).refusal() is None


def test_a_model_that_is_left_alone_takes_no_trial_from_its_server() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    bad, other = breakers.of(target("bad")), breakers.of(target("other"))
    for _ in range(2):
        bad.failed(ERROR, answered=True)
    clock.now += 41
    assert bad.refusal() is None
    bad.failed(ERROR, answered=True)  # for 80 s now
    for _ in range(2):
        other.failed(ERROR, answered=False)
    clock.now += 41
    assert bad.refusal()
    assert other.refusal() is None


def test_how_many_names_are_remembered_is_bounded() -> None:
    breakers = Breakers()
    for _ in range(2):
        breakers.of(target("bad")).failed(ERROR, answered=True)
        breakers.of(target("x" * LONGEST_NAME + "1")).failed(ERROR, answered=True)
    assert breakers.of(target("x" * LONGEST_NAME + "2")).refusal()
    assert breakers.of(target("bad")).refusal()
    for number in range(MOST_MODELS):
        breakers.of(target(str(number)))
    assert breakers.of(target("bad")).refusal() is None
