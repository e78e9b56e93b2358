"""A tool that takes all of one thing and holds it, and another client's requests beside it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.support import intruder
from tests.support.attacked import Attacked, order
from tests.support.service import wait_until

MOST_SECONDS, HELD_SECONDS = 10.0, 5.0
"""How long a taker takes at most, until it is refused, and how long it holds what it has."""
SLOWER = 1.5
"""How many times its usual time a request may take beside a holder, by medians: usual is what it takes just before or just
after, for whatever else this machine does changes from minute to minute."""
ASKED = 3
HELD = "cat /run/work/*/work/taken 2>/dev/null | tr -d '\\0 ' | head -c 2000"


def runners(stack: Attacked) -> list[str]:
    return [each for name, each in stack.services().items() if name.startswith("claude-runner-")]


def victim(stack: Attacked) -> float:
    """Seconds that a request of another client takes, with a tool in it that starts processes and makes files."""
    begin = time.monotonic()
    assert stack.bash("for n in 1 2 3; do echo $n >$n; done; cat 1 2 3; mkfifo p; rm p", "other").split() == [*"123"]
    return time.monotonic() - begin


def usual(stack: Attacked) -> float:
    """The median of several."""
    return statistics.median(victim(stack) for _ in range(ASKED))


def held(stack: Attacked) -> str:
    """What a taker says that it has, in whichever runner it is; empty as long as it takes."""
    return "".join(stack.copy.docker("exec", each, "sh", "-c", HELD) for each in runners(stack)).strip()


@contextmanager
def holding(stack: Attacked, kind: str) -> Iterator[str]:
    """A request whose tool holds all that it got; yields what that was, or how it was ended. Waits for its answer at the end."""
    tried = ["take", kind, str(MOST_SECONDS), str(HELD_SECONDS)]
    text = order("Bash", command=intruder.shell({"take": tried}))
    body = {"model": "max/sonnet", "stream": True, "messages": [{"role": "user", "content": text}]}
    with (
        ThreadPoolExecutor(1) as pool,
        stack.copy.request("POST", "/v1/chat/completions", body) as response,
    ):
        assert response.status == 200
        answer = pool.submit(lambda: response.read().decode())
        said = wait_until(lambda: held(stack) or (answer.done() and answer.result()), f"a tool that holds {kind}", 60)
        yield str(said)
        ended = answer.result(60)
    assert "data: [DONE]" in ended or '"error"' in ended, ended


def clean(stack: Attacked) -> bool:
    """Whether each runner is empty, by its file system's own count, but for one with a CLI that waits."""
    look = "ls /run/work | wc -l; df --output=iused,used /run/work 2>/dev/null | tail -1"
    found = [stack.copy.docker("exec", each, "sh", "-c", look).split() for each in runners(stack)]
    empty = [each for each in found if each == ["0", "1", "0"]]
    return len(empty) >= len(found) - 1


def attack(stack: Attacked, kind: str, timed: bool = False) -> str:
    """Hold a kind, ask beside it, and see that all is as before; return what was held.

    Only where nothing else uses this machine is it `timed`: beside other sessions the times say nothing.
    """
    services = ("claude-proxy", "egress", "llm-call-api")
    started = {name: stack.copy.started(name) for name in services}
    victim(stack)
    before = usual(stack)
    with holding(stack, kind) as said:
        beside = usual(stack)
    wait_until(lambda: clean(stack), f"clean runners after {kind}", 30)
    after = usual(stack)
    assert not timed or beside < SLOWER * max(before, after), (kind, before, beside, after)
    assert {name: stack.copy.started(name) for name in services} == started
    return json.dumps(said)
