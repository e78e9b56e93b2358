"""Two checkouts release the same version on one engine at once; both have loaded their images when the tests begin."""

from __future__ import annotations

from pathlib import Path

from tests.support import pairs, registries


def test_bytes_that_fail_are_never_published(tmp_path: Path, registry: registries.Served) -> None:
    pair = pairs.Pair(tmp_path, registry.address)
    pair.meet()
    problems = pairs.wrong(pair)
    assert not problems, "\n".join(problems)
