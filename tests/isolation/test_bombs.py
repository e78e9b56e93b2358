"""A tool that takes all processes, or all memory: it hurts itself, and nobody else."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.isolation.scene import Scene
from tests.support import intruder
from tests.support.attacked import Attacked
from tests.support.service import wait_until

SECONDS = 20
"""Longer than what is asked meanwhile takes; it ends when its client leaves."""
MODELS = ("openai/gpt-test", "max/sonnet", "max/sonnet", "max/sonnet")
BEGUN = b'"content":"us'
"""The first piece of `using it`, which the double of the Messages API says before it orders a tool."""
LARGE = 2 << 30
"""Bytes: twice of what a runner has."""


def bystander(stack: Attacked, begun: threading.Event, ended: list[str]) -> threading.Thread:
    """Another client's stream, which began before and lasts longer."""
    question = {
        "model": "max/opus",
        "stream": True,
        "messages": [{"role": "user", "content": "[[gap=2.5]] 1 2 3 4 5 6"}],
    }

    def follow() -> None:
        key = f"Bearer {stack.keys['other']}"
        with stack.copy.request("POST", "/v1/chat/completions", question, authorization=key) as response:
            for line in response:
                begun.set()
                if line.strip():
                    ended[:] = [line.decode().strip()]

    thread = threading.Thread(target=follow)
    thread.start()
    assert begun.wait(30)
    return thread


def asked(stack: Attacked, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    status, _, _ = stack.copy.ask("POST", "/v1/chat/completions", body)
    return status


def hurts_nobody(stack: Attacked, attempt: list[str]) -> None:
    """Let a tool explode; meanwhile everybody else is served, and nothing of it outlives its client."""
    started, ended = stack.copy.started("claude-proxy"), list[str]()
    other = bystander(stack, threading.Event(), ended)
    before = processes(stack)
    with stack.copy.request("POST", "/v1/chat/completions", bomb(attempt)) as response:
        assert any(BEGUN in line for line in response)
        with ThreadPoolExecutor() as pool:
            meanwhile = list(pool.map(lambda model: asked(stack, model), MODELS))
            meanwhile += pool.map(lambda model: asked(stack, model), MODELS)
        other.join(60)
    wait_until(lambda: processes(stack) <= before, "the end of it", 20)
    afterwards = [asked(stack, model) for model in MODELS]
    served = [200] * len(MODELS)
    assert (meanwhile, ended, afterwards) == (served * 2, ["data: [DONE]"], served)
    assert stack.copy.started("claude-proxy") == started


def bomb(attempt: list[str]) -> dict[str, Any]:
    """A request for a stream, so that there is an answer before the tool has ended."""
    order = f"[[tool=Bash {json.dumps({'command': intruder.shell({'bomb': attempt})})}]]"
    return {"model": "max/sonnet", "stream": True, "messages": [{"role": "user", "content": order}]}


def processes(stack: Attacked) -> int:
    """Processes and threads in all runners, as the engine counts them."""
    found = [each for name, each in stack.services().items() if name.startswith("claude-runner-")]
    return sum(map(int, stack.copy.docker("stats", "--no-stream", "--format", "{{.PIDs}}", *found).split()))


def ended(stack: Attacked, attempt: list[str]) -> tuple[int, str]:
    """Status and code of a request whose tool went too far."""
    status, body = stack.ask("client", bomb(attempt)["messages"][0]["content"])
    return status, body["error"]["code"]


def test_a_line_is_drawn_for_processes(scene: Scene) -> None:
    limit = scene.stack.copy.docker("inspect", "--format", "{{.HostConfig.PidsLimit}}", scene.runner).strip()
    tried = ["processes", limit]
    assert ended(scene.stack, tried) == (400, "claude_too_many_processes")
    assert scene.peers.attempt(scene.plain, {"fork": tried})["fork"] == f"done: {limit}"


def test_a_fork_bomb_hurts_only_itself(stack: Attacked) -> None:
    hurts_nobody(stack, ["explode", str(SECONDS)])


def test_a_line_is_drawn_for_memory(scene: Scene) -> None:
    tried = ["memory", str(LARGE >> 20)]
    assert ended(scene.stack, tried) == (400, "claude_out_of_memory")
    assert scene.peers.attempt(scene.plain, {"fill": tried})["fill"].startswith("done: ")


def test_a_memory_bomb_hurts_only_itself(stack: Attacked) -> None:
    hurts_nobody(stack, ["refill", str(LARGE >> 20), str(SECONDS)])
