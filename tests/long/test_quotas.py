"""Each kind of thing that a tool can take: another client's request beside it takes at most 1.5 times its usual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import quotas
from tests.support.attacked import Attacked, attacked
from tests.support.outside import outside

KINDS = (
    "epoll_watches",
    "descriptors_in_flight",
    "udp_ports",
    "files_without_a_name",
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
    assert quotas.attack(stack, kind, timed=True)
