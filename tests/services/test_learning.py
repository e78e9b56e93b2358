"""Learned routing of several instances over a real Redis, which dies, comes back, loses its data and holds nonsense."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_call.api import learning, store
from llm_call.api.learning import Learner
from llm_call.api.redis_login import Login
from llm_call.api.shared import PREFIX, RATING_SECONDS
from llm_call.api.store import Store
from serving.settings import Secret
from tests.support.redis_server import Server

ARMS = ("a", "b", "c")
ROUTE = f"{PREFIX}route:auto"


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        found = Server(Path(folder))
        found.start()
        yield found
        found.kill()


class Instances:
    """Learners, each with a connection of its own, as processes of the gateway have."""

    def __init__(self, url: str, count: int, login: Login | None = None) -> None:
        self.stores = [store.connect(url, login) for _ in range(count)]
        self.learners = [Learner(each, rng=random.Random(number)) for number, each in enumerate(self.stores)]

    async def exchange(self) -> None:
        """Twice: what the last one says reaches the first one with the second."""
        for learner in self.learners * 2:
            await learner.exchange()

    async def back(self) -> None:
        await until(lambda: all(each.available for each in self.stores), "Redis is reached again")


def run(url: str, count: int, scenario: Callable[[Instances], Awaitable[None]], login: Login | None = None) -> None:
    async def inner() -> None:
        instances = Instances(url, count, login)
        try:
            await scenario(instances)
        finally:
            for each in instances.stores:
                await each.close()

    asyncio.run(inner())


async def until(condition: Callable[[], Any], what: str) -> None:
    """`wait_until` for conditions that tasks of this loop bring about."""
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


def tell(learner: Learner, arm: str, count: int, ok: bool = True, route: str = "auto") -> list[str]:
    idents = [secrets.token_hex(8) for _ in range(count)]
    for ident in idents:
        learner.record(route, arm, ident, ok=ok, seconds=1.0, cost=0.01)
    return idents


def shown(learner: Learner, figure: str = "pulls") -> list[Any]:
    found = learner.report({"auto": ARMS})["routes"]["auto"]["arms"]
    return [found[arm][figure] for arm in ARMS]


def test_instances_share_what_they_see_and_nothing_counts_twice(server: Server) -> None:
    async def scenario(instances: Instances) -> None:
        for number, learner in enumerate(instances.learners):
            tell(learner, "a", 10 + number)
            tell(learner, "b", 5, ok=False)
        for _ in range(3):
            await instances.exchange()
            assert [shown(each) for each in instances.learners] == [[46, 20, 0]] * 4
        beliefs = [shown(each, "alpha") for each in instances.learners]
        assert beliefs[1:] == [pytest.approx(beliefs[0])] * 3
        assert all(each.report({})["redis"] for each in instances.learners)

    run(server.url, 4, scenario)


def test_instances_that_exchange_at_the_same_time_overwrite_nothing(server: Server) -> None:
    async def scenario(instances: Instances) -> None:
        for _ in range(10):
            for learner in instances.learners:
                tell(learner, "a", 5)
                tell(learner, "c", 3)
            await asyncio.gather(*(each.exchange() for each in instances.learners))
        await instances.exchange()
        assert [shown(each) for each in instances.learners] == [[200, 0, 120]] * 4

    run(server.url, 4, scenario)


def test_an_instance_that_comes_later_or_again_knows_what_the_others_saw(server: Server) -> None:
    async def before(instances: Instances) -> None:
        tell(instances.learners[0], "b", 40)
        await instances.learners[0].close()

    async def after(instances: Instances) -> None:
        learner = instances.learners[0]
        await learner.start()
        await until(lambda: shown(learner) == [0, 40, 0], "what the first one saw")
        await learner.close()

    run(server.url, 1, before)
    run(server.url, 1, after)


@pytest.mark.parametrize("forgets", [False, True])
def test_what_is_learned_while_redis_is_down_is_merged_when_it_is_back(server: Server, forgets: bool) -> None:
    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        tell(first, "a", 10)
        tell(second, "b", 10)
        await instances.exchange()
        server.kill()
        tell(first, "a", 7)
        tell(second, "c", 9)
        await instances.exchange()
        assert (shown(first), shown(second)) == ([17, 10, 0], [10, 10, 9])
        assert not first.report({})["redis"]
        assert sorted(first.order("auto", ARMS)) == list(ARMS)
        if forgets:
            server.forget()
        server.start()
        await instances.back()
        await instances.exchange()
        assert (shown(first), shown(second)) == ([17, 10, 9], [17, 10, 9])
        assert first.report({})["redis"]

    run(server.url, 2, scenario)


def test_an_exchange_whose_answer_was_lost_is_repeated_without_harm(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        real, replies = instances.stores[0].run, iter([True, False, False])

        async def deaf(call: Callable[[Any], Awaitable[Any]]) -> Any:
            result = await real(call)
            return result if next(replies) else None

        tell(first, "a", 10)
        assert shown(second) == [0, 0, 0]
        monkeypatch.setattr(instances.stores[0], "run", deaf)
        await first.exchange()
        monkeypatch.undo()
        await second.exchange()
        assert shown(second) == [10, 0, 0], "it did arrive"
        tell(first, "a", 1)
        await instances.exchange()
        assert (shown(first), shown(second)) == ([11, 0, 0], [11, 0, 0])

    run(server.url, 2, scenario)


def test_the_background_exchanges_without_being_asked_and_close_tells_the_rest(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "EXCHANGE_SECONDS", 0.02)
    monkeypatch.setattr(learning, "POLL_SECONDS", 0.05)

    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        await first.start()
        await second.start()
        tell(first, "a", 3)
        await until(lambda: shown(second) == [3, 0, 0], "the second one hears of it")
        server.kill()
        tell(second, "b", 4)
        await until(lambda: not instances.stores[1].available, "Redis is missed")
        server.start()
        await until(lambda: shown(first) == [3, 4, 0], "what happened meanwhile")
        tell(first, "c", 5)
        await first.close()
        await until(lambda: shown(second) == [3, 4, 5], "the last news")
        await second.close()

    run(server.url, 2, scenario)


def test_an_answer_is_rated_through_any_instance_and_the_last_rating_counts(server: Server) -> None:
    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        good, bad = tell(first, "a", 1)[0], tell(first, "a", 1, ok=False)[0]
        assert not await second.rate(good, 1.0), "not told yet"
        await first.exchange()
        alpha = shown(first, "alpha")[0]
        assert await second.rate(good, 0.5)
        assert await second.rate(bad, 1.0)
        await instances.exchange()
        assert shown(first, "alpha")[0] == pytest.approx(shown(second, "alpha")[0]) == pytest.approx(alpha - 0.5)
        assert await first.rate(good, 0.0)
        await asyncio.gather(*(each.rate(good, 1.0) for each in (first, second) * 5))
        await instances.exchange()
        assert shown(first, "alpha")[0] == pytest.approx(shown(second, "alpha")[0]) == pytest.approx(alpha)
        assert shown(second) == [2, 0, 0], "a rating is not an answer"
        assert not await first.rate(secrets.token_hex(8), 1.0)

    run(server.url, 2, scenario)
    with server.client() as client:
        lives = [client.ttl(key) for key in client.scan_iter(f"{PREFIX}request:*")]
        assert len(lives) == 2
        assert all(RATING_SECONDS - 60 < each <= RATING_SECONDS for each in lives), "a rating does not prolong it"


def test_a_rating_that_comes_while_redis_is_being_told_reaches_redis_too(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        ident = tell(first, "a", 1)[0]
        real, number = instances.stores[0].run, itertools.count()

        async def slow(call: Callable[[Any], Awaitable[Any]]) -> Any:
            result = await real(call)
            if next(number) == 2:  # after reading and writing the route: the answers
                assert await first.rate(ident, 0.0)
            return result

        monkeypatch.setattr(instances.stores[0], "run", slow)
        await first.exchange()
        monkeypatch.undo()
        await instances.exchange()
        assert await second.rate(ident, 1.0)
        await instances.exchange()
        assert shown(first, "alpha")[0] == pytest.approx(shown(second, "alpha")[0]) == pytest.approx(2.0)

    run(server.url, 2, scenario)


def test_many_answers_become_known_in_parts(server: Server) -> None:
    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        idents = tell(first, "a", 3 * learning.AT_ONCE + 1)
        await first.exchange()
        with server.client() as client:
            assert len(list(client.scan_iter(f"{PREFIX}request:*"))) == len(idents)
        assert await second.rate(idents[0], 1.0)
        assert await second.rate(idents[-1], 1.0)

    run(server.url, 2, scenario)


def test_nonsense_in_redis_is_ignored_and_named_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    nonsense = ["", "{", "[]", '{"0": {"a": [1]}}', '{"0": {"a": [1, 1, 1, 1, 1, 1, 1e999]}}', "\x00\x01", "é" * 5000]
    with server.client() as client:
        client.hset(ROUTE, mapping={f"instance-{number}": text for number, text in enumerate(nonsense)})
        client.set(f"{PREFIX}route:taken", "not a hash")
        client.set(f"{PREFIX}request:text", "nonsense")
        client.set(f"{PREFIX}request:long", '["auto", "a", true, 7.0]')
        client.lpush(f"{PREFIX}request:list", "nonsense")

    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        tell(first, "a", 10)
        tell(second, "b", 10)
        tell(first, "a", 10, route="taken")
        for _ in range(3):
            await instances.exchange()
        assert (shown(first), shown(second)) == ([10, 10, 0], [10, 10, 0])
        assert [await first.rate(ident, 0.0) for ident in ("text", "long", "list")] == [False] * 3
        assert all(each.available for each in instances.stores), (
            "that the content is wrong does not mean that it is down"
        )

    with caplog.at_level(logging.WARNING, "llm_call"):
        run(server.url, 2, scenario)
    texts = [each.getMessage() for each in caplog.records]
    assert sum("field instance-" in each for each in texts) == 2, "one line per instance"
    assert sum("record of a request is ignored" in each for each in texts) == 1
    assert any(f"{PREFIX}route:taken: WRONGTYPE" in each for each in texts)
    with server.client() as client:
        assert client.get(f"{PREFIX}route:taken") == "not a hash", "nothing of others is removed"


def test_arms_and_routes_that_left_the_configuration_stay_in_redis(server: Server) -> None:
    async def before(instances: Instances) -> None:
        tell(instances.learners[0], "left", 10)
        tell(instances.learners[0], "a", 10)
        tell(instances.learners[0], "a", 10, route="left")
        await instances.exchange()

    async def after(instances: Instances) -> None:
        tell(instances.learners[0], "a", 5)
        await instances.exchange()
        assert shown(instances.learners[0]) == [15, 0, 0]
        report = instances.learners[0].report({"auto": ["left", "a"], "left": ["a"]})["routes"]["auto"]["arms"]
        assert report["left"]["pulls"] == 10

    run(server.url, 1, before)
    run(server.url, 1, after)
    with server.client() as client:
        assert sorted(client.keys(f"{PREFIX}route:*")) == [ROUTE, f"{PREFIX}route:left"]
        assert client.ttl(ROUTE) > 0


def test_instances_that_are_gone_are_swept_once_their_answers_count_no_more(server: Server) -> None:
    async def short(instances: Instances) -> None:
        tell(instances.learners[0], "a", 5)
        await instances.exchange()

    async def long(instances: Instances) -> None:
        clock = iter(range(10**6))
        learner = Learner(instances.stores[0], clock=lambda: float(next(clock)))
        await learner.exchange()
        tell(learner, "b", 1200)
        await learner.exchange()
        await learner.exchange()
        with server.client() as client:
            assert client.hlen(ROUTE) == 1

    run(server.url, 1, short)
    run(server.url, 1, long)


def test_a_user_who_may_only_read_and_write_these_keys_is_enough(server: Server) -> None:
    password = secrets.token_urlsafe(24)
    allowed = ["hgetall", "hset", "hdel", "expire", "set", "get", "ping", "client", "hello"]
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "gateway", "on", f">{password}", f"~{PREFIX}*", "-@all", *(f"+{each}" for each in allowed)
        )

    async def scenario(instances: Instances) -> None:
        first, second = instances.learners
        ident = tell(first, "a", 10)[0]
        await instances.exchange()
        assert await second.rate(ident, 0.5)
        await instances.exchange()
        assert shown(first) == shown(second) == [10, 0, 0]
        assert all(isinstance(each, Store) and each.available for each in instances.stores)

    run(server.url, 2, scenario, Login("gateway", lambda: Secret(password), "this test"))
