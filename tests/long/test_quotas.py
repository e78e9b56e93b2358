"""Every other kind of thing that a tool can take, see tests/isolation/test_quotas.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import quotas
from tests.support.attacked import Attacked, attacked
from tests.support.outside import outside

KINDS = (
    "datagrams",
    "stream_buffers",
    "inodes",
    "pipes",
    "signals",
    "locked_memory",
    "file_locks",
    "page_tables",
    "names",
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with outside() as world, attacked(tmp_path_factory.mktemp("prod"), "prod", world) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_request_takes_is_not_missed_by_another(stack: Attacked, kind: str) -> None:
    said = quotas.attack(stack, kind)
    assert kind in said or "claude_out_of_" in said
