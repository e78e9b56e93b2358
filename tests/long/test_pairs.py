"""Ten pairs of releases of the same version on one engine at once: no release gets, tests or loses another's bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import pairs, registries

#: Pairs in all, and pairs at a time: four releases on one engine at any moment.
PAIRS, AT_ONCE = 10, 2


def test_ten_pairs_at_once(tmp_path: Path) -> None:
    """Each pair has a registry. The tests of every second pair wait for each other, so that both have loaded their images."""

    def one(number: int) -> list[str]:
        root = tmp_path / str(number)
        with registries.running(root / "registry") as registry:
            pair = pairs.Pair(root, registry.address)
            if number % 2:
                pair.meet()
            return [f"pair {number}: {each}" for each in pairs.wrong(pair)]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = [each for found in pool.map(one, range(PAIRS)) for each in found]
    assert not problems, "\n".join(problems)
