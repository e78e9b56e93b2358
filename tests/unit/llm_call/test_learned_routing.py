"""Learned routing without Redis: rewards, beliefs, discounted evidence, and the learner of a lone instance."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
from collections.abc import Sequence

import pytest

from bench import routing as simulation
from llm_call.api import arms, learning, thompson
from llm_call.api.arms import SEGMENT, SEGMENTS, Evidence
from llm_call.api.learning import Learner
from llm_call.api.store import Store
from llm_call.api.thompson import Sums, beliefs, measured, reward

ARMS = ("a", "b", "c")


def seen(answers: Sequence[tuple[bool, float, float | None]]) -> Sums:
    sums = Sums()
    for ok, seconds, cost in answers:
        sums.add(ok, *measured(seconds, cost))
    return sums


def mean(belief: tuple[float, float]) -> float:
    return belief[0] / sum(belief)


def means(*known: Sums) -> list[float]:
    return [mean(each) for each in beliefs(known)]


def fill(evidence: Evidence, arm: str, count: int, ok: bool = True, begin: float = 0.0) -> None:
    for number in range(count):
        evidence.record(arm, begin + number, ok, *measured(1.0, 0.001))


def pulls(evidence: Evidence, *names: str) -> list[float]:
    return [each.pulls for each in evidence.remembered(names or ARMS)]


def lone() -> Learner:
    return Learner(Store(None), rng=random.Random(1))


def test_the_reward_is_0_for_a_failure_and_1_for_the_fastest_and_cheapest_success() -> None:
    assert reward(0.0, 1.0, 1.0) == 0.0
    assert reward(1.0, 1.0, 1.0) == pytest.approx(1.0)
    assert reward(0.5, 1.0, 1.0) == pytest.approx(0.5)
    assert reward(1.0, 0.5, 1.0) == pytest.approx(0.9)
    assert reward(1.0, 1.0, 0.5) == pytest.approx(0.9)


def test_beliefs_count_every_answer_and_rank_by_success_then_speed_and_price() -> None:
    sure, flaky = seen([(True, 1, 0.01)] * 40), seen([(True, 1, 0.01), (False, 1, None)] * 20)
    slow, dear = seen([(True, 2, 0.01)] * 40), seen([(True, 1, 0.04)] * 40)
    dead = seen([(False, 0.01, None)] * 40)
    found = beliefs([sure, flaky, slow, dear, dead])
    assert [alpha + beta for alpha, beta in found] == pytest.approx([42.0] * 5)
    assert found[0] == pytest.approx((41, 1))
    assert found[4] == pytest.approx((1, 41)), "that failures come fast must not help"
    assert mean(found[0]) > mean(found[2]) > mean(found[3]) > mean(found[1]) > mean(found[4])


@pytest.mark.parametrize("scale", [1e-3, 1e2])
def test_beliefs_do_not_depend_on_the_scale_of_seconds_and_dollars(scale: float) -> None:
    one = [seen([(True, 1, 0.01)] * 9), seen([(True, 3, 0.002)] * 9)]
    other = [seen([(True, scale, 0.01 * scale)] * 9), seen([(True, 3 * scale, 0.002 * scale)] * 9)]
    assert list(itertools.chain(*beliefs(one))) == pytest.approx(list(itertools.chain(*beliefs(other))))


def test_an_unknown_price_lies_between_cheap_and_dear_and_free_beats_all() -> None:
    cheap, dear, unknown = (seen([(True, 1, cost)] * 50) for cost in (0.01, 0.1, None))
    of_cheap, of_dear, of_unknown = means(cheap, dear, unknown)
    assert of_cheap > of_unknown > of_dear
    free, of_cheap, of_dear = means(seen([(True, 1, 0.0)] * 50), cheap, dear)
    assert free > of_cheap > of_dear, "prices still count among the others"


def test_one_very_slow_answer_does_not_condemn_an_arm() -> None:
    steady = seen([(True, 1, 0.01)] * 100)
    once = seen([(True, 1, 0.01)] * 99 + [(True, 600, 0.01)])
    assert means(steady, once)[1] > 0.97 * means(steady, once)[0]


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 5e-324, 1e308])
@pytest.mark.parametrize("cost", [None, 0.0, -1.0, math.nan, math.inf, 5e-324, 1e308])
def test_beliefs_stay_finite_whatever_is_measured(seconds: float, cost: float | None) -> None:
    found = beliefs([seen([(True, seconds, cost)] * 3), seen([(True, 1.0, 0.01)] * 3), Sums(), Sums(quality=-3.0)])
    assert all(math.isfinite(each) and each > 0 for each in itertools.chain(*found))


def test_every_arm_is_tried_and_the_best_one_preferred() -> None:
    for seed in range(40):
        rng, evidence, chosen = random.Random(seed), Evidence(0.0), []
        for number in range(400):
            arm = ARMS[thompson.order(evidence.arms(ARMS), rng)[0]]
            evidence.record(arm, number, rng.random() < {"a": 0.95, "b": 0.5, "c": 0.3}[arm], *measured(1, None))
            chosen.append(arm)
        assert set(chosen[:100]) == set(ARMS)
        assert chosen[200:].count("a") > 120


@pytest.mark.parametrize("instances", [1, 4])
def test_the_simulation_reaches_90_percent_within_300_requests_and_follows_a_change(instances: int) -> None:
    outcomes = [simulation.play(simulation.Learned(random.Random(seed), instances), seed, 20.0) for seed in range(5)]
    assert simulation.median([each.first for each in outcomes]) <= 300
    assert simulation.median([each.again for each in outcomes]) <= 500
    assert all(each.share > 0.7 for each in outcomes)


def test_the_simulation_tells_a_policy_that_does_not_learn() -> None:
    outcomes = [simulation.play(simulation.Uniform(random.Random(seed)), seed, 20.0) for seed in range(5)]
    assert simulation.median([each.first for each in outcomes]) == math.inf


def test_a_segment_weighs_less_with_every_later_one_and_is_forgotten_at_last() -> None:
    evidence = Evidence(0.0)
    fill(evidence, "a", SEGMENT)
    assert evidence.arms("a")[0].pulls == SEGMENT
    fill(evidence, "b", SEGMENT, begin=100.0)
    assert evidence.arms("ab")[0].pulls == pytest.approx(SEGMENT * arms.DECAY)
    assert evidence.arms("ab")[1].pulls == SEGMENT
    fill(evidence, "b", SEGMENT * SEGMENTS, begin=200.0)
    assert evidence.arms("a")[0] == Sums()
    assert len(json.loads(evidence.export())) == SEGMENTS


def test_however_many_answers_a_segment_takes_its_time() -> None:
    evidence = Evidence(0.0)
    for number in range(1000):
        evidence.record("a", number / 1001 * arms.SEGMENT_SECONDS, True, None, None)
    assert evidence.arms("a")[0].pulls == 1000
    for number in range(100):
        evidence.record("a", (1.5 + number / 101) * arms.SEGMENT_SECONDS, True, None, None)
    assert evidence.arms("a")[0].pulls == pytest.approx(1000 * arms.DECAY + 100)


def test_a_clock_that_is_set_back_does_not_hold_a_segment() -> None:
    evidence = Evidence(1e9)
    fill(evidence, "a", SEGMENT + 1, begin=1.0)
    assert evidence.arms("a")[0].pulls == pytest.approx(SEGMENT * arms.DECAY + 1)


def test_merging_in_any_order_and_any_number_of_times_gives_the_same() -> None:
    first, second, third = Evidence(0.0), Evidence(0.0), Evidence(0.0)
    fill(first, "a", 60)
    fill(second, "b", 20, ok=False)
    fill(third, "a", 7)
    documents = [arms.parse(each.export()) for each in (first, second, third)]
    for _ in range(3):
        first.merge([documents[2], documents[1]], 100.0)
        second.merge([documents[0], documents[2]], 100.0)
        third.merge([documents[1], documents[0]], 100.0)
    assert pulls(first) == pulls(second) == pulls(third) == [67, 20, 0]
    alphas = [list(itertools.chain(*beliefs(each.arms(ARMS)))) for each in (first, second, third)]
    assert alphas[0] == pytest.approx(alphas[1])
    assert alphas[0] == pytest.approx(alphas[2])


def test_what_was_seen_between_two_merges_stays() -> None:
    first, second = Evidence(0.0), Evidence(0.0)
    fill(second, "b", 5)
    first.merge([arms.parse(second.export())], 1.0)
    fill(first, "a", 4)
    first.merge([arms.parse(second.export())], 2.0)
    assert pulls(first) == [4, 5, 0]


def test_a_newcomer_goes_on_where_the_others_are() -> None:
    old, new = Evidence(0.0), Evidence(0.0)
    fill(old, "a", 10 * SEGMENT)
    new.merge([arms.parse(old.export())], 1000.0)
    fill(new, "b", 1, begin=1000.0)
    assert new.arms("ab")[1].pulls == 1
    old.merge([arms.parse(new.export())], 1000.0)
    assert old.arms("ab")[1].pulls == 1, "it is not put among the answers of long ago"


def test_the_document_of_an_instance_that_is_gone_becomes_outdated() -> None:
    evidence, gone = Evidence(0.0), Evidence(0.0)
    fill(gone, "a", 5)
    document = arms.parse(gone.export())
    assert not evidence.outdated(document)
    fill(evidence, "a", SEGMENT * (2 * SEGMENTS + 2))
    assert evidence.outdated(document)


def test_a_rating_counts_when_it_comes_however_old_the_answer_is() -> None:
    evidence = Evidence(0.0)
    fill(evidence, "a", SEGMENT * (SEGMENTS + 1))
    before = evidence.arms("a")[0]
    pulls_before, quality_before = before.pulls, before.quality
    evidence.correct("a", -1.0)
    after = evidence.arms("a")[0]
    assert (after.pulls, after.quality) == (pulls_before, quality_before - 1)
    other = Evidence(0.0)
    other.merge([arms.parse(evidence.export())], 0.0)
    assert other.arms("a")[0].quality == pytest.approx(after.quality)
    for _ in range(1000):
        evidence.correct("a", -1.0)
    assert beliefs(evidence.arms("a"))[0] == pytest.approx((1.0, 1.0 + pulls_before)), "bounded"


GOOD = [1, 1, 1, 1, 0.5, 1, 0.1]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"7",
        b'{"x": {}}',
        b'{"-1": {}}',
        b'{"9999999999999999": {}}',
        b'{"0": []}',
        b'{"0": {"a": {}}}',
        b'{"0": {"a": [1, 2]}}',
        json.dumps({"0": {"a": [*GOOD[:-1], "1"]}}).encode(),
        json.dumps({"0": {"a": [*GOOD[:-1], None]}}).encode(),
        json.dumps({"0": {"a": [*GOOD[:-1], True]}}).encode(),
        json.dumps({"0": {"a": [*GOOD[:-1], 1e300]}}).encode(),
        json.dumps({"0": {"a": [*GOOD[:-1], -1]}}).encode(),
        json.dumps({"0": {"a": [*GOOD[:-1], math.nan]}}).encode(),
        b'{"0": {"a": [1' + b"0" * 400 + b", 1, 1, 1, 1, 1, 1]}}",
    ],
)
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        arms.parse(text)


def test_a_document_is_read_as_it_was_written() -> None:
    evidence = Evidence(0.0)
    fill(evidence, "an arm / with * signs é", 30)
    other = Evidence(0.0)
    other.merge([arms.parse(evidence.export())], 0.0)
    assert pulls(other, "an arm / with * signs é") == [30]
    assert arms.parse(json.dumps({"3": {"a": GOOD}})) == {3: {"a": Sums(*GOOD)}}


def test_a_lone_learner_orders_by_what_it_recorded() -> None:
    async def scenario() -> None:
        learner = lone()
        assert sorted(learner.order("auto", ARMS)) == list(ARMS)
        for number in range(60):
            learner.record("auto", "b", f"good-{number}", ok=True, seconds=0.5, cost=None)
            for arm in "ac":
                learner.record("auto", arm, f"bad-{arm}-{number}", ok=False, seconds=0.1, cost=None)
        firsts = [learner.order("auto", ARMS)[0] for _ in range(50)]
        assert firsts.count("b") == 50
        assert sorted({learner.order("other", ARMS)[0] for _ in range(100)}) == list(ARMS), "routes are apart"
        assert learner.order("auto", ["new", "b"])[0] in ("new", "b")
        assert learner.order("auto", []) == []
        assert learner.report({"auto": ["a", "never"]})["routes"]["auto"]["best"] == "a", "of those that were tried"
        await learner.close()

    asyncio.run(scenario())


def test_the_report_shows_every_arm_with_finite_numbers() -> None:
    async def scenario() -> None:
        learner = lone()
        for number in range(30):
            learner.record("auto", "a", str(number), ok=number % 3 > 0, seconds=2.0, cost=0.004)
        learner.record("auto", "b", "b", ok=True, seconds=math.nan, cost=math.inf)
        report = learner.report({"auto": ARMS, "unused": ["x"]})
        assert report["redis"] is False
        found = report["routes"]["auto"]
        assert (found["best"], report["routes"]["unused"]["best"]) == ("a", None)
        shown = found["arms"]["a"]
        assert (shown["pulls"], shown["share"]) == (30, pytest.approx(30 / 31))
        assert shown["success_rate"] == pytest.approx(2 / 3)
        assert shown["latency_seconds"] == pytest.approx(2.0)
        assert shown["cost_usd"] == pytest.approx(0.004)
        assert shown["reward"] == pytest.approx(shown["alpha"] / (shown["alpha"] + shown["beta"]))
        assert (found["arms"]["b"]["latency_seconds"], found["arms"]["b"]["cost_usd"]) == (None, None)
        assert found["arms"]["c"] | {"reward": 0.5, "pulls": 0, "success_rate": None} == found["arms"]["c"]
        json.dumps(report, allow_nan=False)

    asyncio.run(scenario())


def test_a_rating_replaces_the_quality_of_an_answer_and_the_last_one_counts() -> None:
    async def scenario() -> None:
        learner = lone()

        def good() -> float:
            return float(learner.report({"auto": ["a"]})["routes"]["auto"]["arms"]["a"]["alpha"])

        learner.record("auto", "a", "one", ok=True, seconds=1.0, cost=0.01)
        learner.record("auto", "a", "two", ok=False, seconds=1.0, cost=None)
        assert good() == pytest.approx(2.0)
        assert await learner.rate("one", 0.25)
        assert good() == pytest.approx(1.25)
        assert await learner.rate("one", 0.75)
        assert good() == pytest.approx(1.75)
        assert await learner.rate("two", 1.0), "known, but a failure stays one"
        assert good() == pytest.approx(1.75)

    asyncio.run(scenario())


@pytest.mark.parametrize("ident", ["", "never", "é", "x" * 129])
def test_an_unknown_id_cannot_be_rated(ident: str) -> None:
    async def scenario() -> None:
        assert await lone().rate(ident, 1.0) is False

    asyncio.run(scenario())


@pytest.mark.parametrize("rating", [-0.1, 1.1, math.nan, math.inf])
def test_a_rating_outside_0_to_1_is_refused(rating: float) -> None:
    async def scenario() -> None:
        learner = lone()
        learner.record("auto", "a", "one", ok=True, seconds=1.0, cost=None)
        with pytest.raises(ValueError, match="a rating is a number from 0 to 1, not"):
            await learner.rate("one", rating)

    asyncio.run(scenario())


def test_without_redis_only_the_latest_answers_are_kept_for_ratings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "PENDING", 3)

    async def scenario() -> None:
        learner = lone()
        for number in range(10):
            learner.record("auto", "a", str(number), ok=True, seconds=1.0, cost=None)
        assert [await learner.rate(str(number), 1.0) for number in range(5, 10)] == [False, False, True, True, True]

    asyncio.run(scenario())


def test_a_fallback_that_succeeds_owns_the_id() -> None:
    async def scenario() -> None:
        learner = lone()
        learner.record("auto", "a", "one", ok=False, seconds=1.0, cost=None)
        learner.record("auto", "b", "one", ok=True, seconds=1.0, cost=None)
        assert await learner.rate("one", 0.0)
        found = learner.report({"auto": ARMS})["routes"]["auto"]["arms"]
        assert found["b"]["alpha"] == pytest.approx(1.0)
        assert found["b"]["success_rate"] == 1.0

    asyncio.run(scenario())
