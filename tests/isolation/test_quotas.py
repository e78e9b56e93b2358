"""A tool takes all that the kernel gives it of one thing: another client's request beside it takes no longer for that."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import intruder
from tests.support.attacked import Attacked, order
from tests.support.service import wait_until

HELD_SECONDS = 6.0
"""How long a taker holds what it has: longer than the requests that are asked meanwhile."""
SLOWER = 1.5
"""How many times a request's usual time it may take beside an attacker, by the medians of the same run."""
ASKED = 5
KINDS = (
    *("epoll_watches", "descriptors_in_flight", "udp_ports", "datagrams", "stream_buffers", "files_without_a_name"),
    *("inodes", "pipes", "signals", "locked_memory", "file_locks", "page_tables", "names"),
)


def runners(stack: Attacked) -> list[str]:
    return [each for name, each in stack.services().items() if name.startswith("claude-runner-")]


def victim(stack: Attacked) -> float:
    """Seconds that a request of another client takes, with a tool in it that looks up a name and makes files."""
    begin = time.monotonic()
    assert stack.bash("for n in 1 2 3; do echo $n >$n; done; cat 1 2 3; mkfifo p; rm p", "other") == "1\n2\n3"
    return time.monotonic() - begin


def usual(stack: Attacked) -> float:
    return statistics.median(victim(stack) for _ in range(ASKED))


@contextmanager
def attacker(stack: Attacked, kind: str, seconds: float) -> Iterator[list[str]]:
    """A request whose tool takes and holds; the runner that it has is found by what it left in its folder."""
    text = order("Bash", command=intruder.shell({"take": ["take", kind, str(seconds)]}))
    body = {"model": "max/sonnet", "stream": True, "messages": [{"role": "user", "content": text}]}
    said: list[str] = []
    with stack.copy.request("POST", "/v1/chat/completions", body) as response:
        assert response.status == 200
        assert any(b'"content":"us' in line for line in response)
        yield said
        said.extend(line.decode() for line in response)


def clean(stack: Attacked) -> bool:
    """Whether no runner has a process but its own and those of a CLI that waits, nor a folder of a request that ended."""
    look = "ls /run/work | wc -l; cat /proc/[0-9]*/stat 2>/dev/null | wc -l; df --output=iused,used /run/work | tail -1"
    found = [stack.copy.docker("exec", each, "sh", "-c", look).split() for each in runners(stack)]
    busy = [each for each in found if each[0] != "0"]
    free = [each for each in found if each[0] == "0"]
    return len(busy) <= 1 and all(each[2:] == ["1", "0"] for each in free)


@pytest.fixture(scope="module")
def before(stack: Attacked) -> float:
    victim(stack)
    return usual(stack)


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_request_takes_is_not_missed_by_another(stack: Attacked, before: float, kind: str) -> None:
    started = {name: stack.copy.started(name) for name in ("claude-proxy", "egress", "llm-call-api")}
    with attacker(stack, kind, HELD_SECONDS) as said:
        beside = [victim(stack) for _ in range(ASKED)]
    assert statistics.median(beside) < SLOWER * before, (kind, before, beside)
    ended = "".join(said)
    assert "data: [DONE]" in ended or '"error"' in ended
    wait_until(lambda: clean(stack), "clean runners", 30)
    assert {name: stack.copy.started(name) for name in started} == started
    assert stack.bash("echo still here") == "still here"


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_take_something(stack: Attacked, kind: str) -> None:
    """The control: what it took, and who refused more."""
    told = json.dumps(stack.ask("client", order("Bash", command=intruder.shell({"take": ["take", kind, "4"]}))))
    assert kind in told or "claude_out_of_" in told or "claude_cli_crashed" in told, told
