"""A tool that takes all processes, or all memory: it hurts itself, and nobody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.isolation.scene import Scene
from tests.support import intruder
from tests.support.attacked import Attacked
from tests.support.service import wait_until

SECONDS = 20
"""Longer than what is asked meanwhile takes; it ends when its client leaves."""
MODELS = ("openai/gpt-test", "max/sonnet", "max/sonnet", "max/sonnet")
BEGUN = b'"content":"us'
"""The first piece of `using it`, which the double of the Messages API says before it orders a tool."""
SMALL = 1 << 30
"""Bytes to which the proxy's memory is limited while it is filled, so that this machine does not suffer."""


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
    """Processes and threads in the proxy's container, as the engine counts them."""
    words = ("stats", "--no-stream", "--format", "{{.PIDs}}", stack.copy.container("claude-proxy"))
    return int(stack.copy.docker(*words))


@pytest.fixture
def little_memory(stack: Attacked) -> Iterator[None]:
    proxy = stack.copy.container("claude-proxy")
    words = ("update", f"--memory={SMALL}", f"--memory-swap={SMALL}", proxy)
    limit = stack.copy.docker("inspect", "--format", "{{.HostConfig.Memory}}", proxy).strip()
    stack.copy.docker(*words)
    yield
    stack.copy.docker("update", f"--memory={limit}", f"--memory-swap={limit}", proxy)


def test_a_line_is_drawn_for_processes(scene: Scene) -> None:
    limit = scene.stack.copy.docker("inspect", "--format", "{{.HostConfig.PidsLimit}}", scene.proxy)
    tried = {"fork": ["processes", limit.strip()]}
    assert scene.stack.attempt(tried)["fork"].startswith("refused: ")
    assert scene.peers.attempt(scene.plain, tried)["fork"] == f"done: {limit.strip()}"


def test_a_fork_bomb_hurts_only_itself(stack: Attacked) -> None:
    hurts_nobody(stack, ["explode", str(SECONDS)])


def test_a_line_is_drawn_for_memory(scene: Scene, little_memory: None) -> None:
    """Whoever crosses it is killed, or its whole request ends."""
    tried = {"fill": ["memory", str(SMALL >> 20)]}
    status, body = scene.stack.ask("client", bomb(tried["fill"])["messages"][0]["content"])
    assert status >= 500 or '{\\"bomb\\": \\"refused: killed by signal 9\\"}' in json.dumps(body)
    assert scene.peers.attempt(scene.plain, tried)["fill"].startswith("done: ")


def test_a_memory_bomb_hurts_only_itself(stack: Attacked, little_memory: None) -> None:
    hurts_nobody(stack, ["refill", str(SMALL >> 19), str(SECONDS)])
