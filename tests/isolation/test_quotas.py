"""A tool takes all that the kernel gives it of one thing: another client's requests beside it are answered all the same.

The kinds that were seen to get through once; tests/long/test_quotas.py has the others, and compares the times.
"""

from __future__ import annotations

import pytest

from tests.support import quotas
from tests.support.attacked import Attacked

REFUSED = {
    "epoll_watches": "",  # by its own quota, or by its memory
    "descriptors_in_flight": "Too many references",
    "udp_ports": "Operation not permitted",
    "files_without_a_name": "No",
}
"""Why each kind was refused at last, to the one who took it."""


@pytest.mark.parametrize("kind", REFUSED)
def test_what_one_request_takes_is_not_missed_by_another(stack: Attacked, kind: str) -> None:
    if stack.kind != "prod":
        pytest.skip("the same runners as in prod, which has been attacked already")
    assert REFUSED[kind].replace(" ", "") in quotas.attack(stack, kind)
