"""One world outside, and stacks in it, one after the other: both cores and one engine are shared."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.isolation import attempts
from tests.isolation.attempts import Outcomes
from tests.isolation.scene import Scene
from tests.isolation.scene import scene as around
from tests.support.attacked import Attacked, attacked
from tests.support.outside import Outside, outside

STACKS = ("prod", "scaled")
"""Which stacks are attacked: `prod`, and `scaled`, the same with three instances of the API."""


@pytest.fixture(scope="session")
def world() -> Iterator[Outside]:
    with outside() as found:
        yield found


@pytest.fixture(scope="session", params=STACKS)
def stack(
    request: pytest.FixtureRequest, world: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Attacked]:
    with attacked(tmp_path_factory.mktemp(request.param), request.param, world) as found:
        yield found


@pytest.fixture(scope="session")
def scene(stack: Attacked, world: Outside) -> Iterator[Scene]:
    with around(stack, world) as found:
        yield found


@pytest.fixture(scope="session")
def outcomes(scene: Scene) -> Outcomes:
    """All attempts at once, in a few seconds; each test looks at one of them."""
    words = {
        **{place: _attempts(place, scene.facts) for place in attempts.EVERYWHERE},
        **{place: _attempts(place, scene.controls) for place in attempts.CONTROLS},
        attempts.PEER: _attempts(attempts.PEER, scene.peer_facts),
    }
    exec_in = {
        attempts.CONTAINER: (scene.runner,),
        attempts.ROOT: (scene.runner, "--user=0"),
        attempts.PEER: (scene.peer,),
        attempts.PLAIN: (scene.plain,),
        attempts.USER: (scene.plain, "--user=65534"),
        attempts.OPEN: (scene.open,),
    }
    with ThreadPoolExecutor() as pool:
        running = {
            place: pool.submit(scene.peers.attempt, container, words[place], *options)
            for place, (container, *options) in exec_in.items()
        }
        running[attempts.TOOL] = pool.submit(scene.stack.attempt, words[attempts.TOOL])
        found = {place: each.result() for place, each in running.items()}
    return Outcomes(found, scene.heard())


def _attempts(place: str, facts: dict[str, str]) -> dict[str, list[str]]:
    chosen = [each for each in attempts.ATTEMPTS if place in (*each.where, each.control)]
    return {each.name: attempts.words(each, place, facts) for each in chosen}
