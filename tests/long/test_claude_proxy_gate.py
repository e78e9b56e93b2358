"""The gate under attacks of the size that stalled egress before: 700 unfinished bodies, thousands of idle connections.

The attacker is a process that steps back as a tool does, and opens a connection again for each that the gate closes.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gate_client import MODEL, Run, Stack, gated

ATTACKER = Path(__file__).parents[1] / "support/gate_attacker.py"
RUNNER = "127.0.0.2"
"""From where the attacker connects: each runner has an address of its own, which a tool cannot change."""
CALLS = 25
CONNECTIONS = 3000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    try:
        with gated(tmp_path_factory.mktemp("gate"), CLAUDE_PROXY_REQUEST_CALLS="100000") as stack:
            yield stack
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def attack(run: Run, count: int, said: bytes, read: str) -> Iterator[None]:
    """Hold so many connections of a run until the end of the block."""
    words = [sys.executable, "-IS", str(ATTACKER), run.host, str(run.port), str(count), read, RUNNER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"%d\n%b" % (len(said), said))
        process.stdin.flush()
        assert process.stdout.readline() == b"full\n"
        try:
            yield
            assert process.poll() is None
        finally:
            process.stdin.close()
            process.wait(30)


def hello(run: Run) -> bytes:
    text = "[[gap=0 say=" + "x" * 200_000 + "]]"
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    return run.head(len(body)) + body


ATTACKS: dict[str, tuple[int, Callable[[Run], bytes], str]] = {
    "unfinished bodies": (700, lambda run: run.head(100_000) + b"{", "read"),
    "bodies of 32 MiB that do not come": (700, lambda run: run.head(32 << 20) + b"{", "read"),
    "idle connections": (CONNECTIONS, lambda run: b"", "read"),
    "unfinished heads": (CONNECTIONS, lambda run: b"POST /v1/messages HTTP/1.1\r\n", "read"),
    "no token": (700, lambda run: run.head(9, "run-unknown"), "read"),
    "answers that nobody reads": (60, hello, "leave"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_another_request_takes_as_long_as_usual(stack: Stack, name: str) -> None:
    count, said, read = ATTACKS[name]
    with stack.run() as attacker, stack.run() as victim:
        usual = statistics.median(victim.seconds() for _ in range(CALLS))
        with attack(attacker, count, said(attacker), read):
            under = statistics.median(victim.seconds() for _ in range(CALLS))
    print(f"{name}: {under:.3f} s, {under / usual:.2f} times the usual")
    assert under < 1.5 * usual, f"{under:.3f} s instead of {usual:.3f} s"
    with stack.run() as later:  # nothing of it is left
        assert later.ask()[0] == 200


def test_requests_leave_nothing_at_the_gate(stack: Stack) -> None:
    gate = Path(f"/proc/{stack.proxy.gate()}/fd")
    with stack.run() as run:
        assert run.ask()[0] == 200
    before = len(list(gate.iterdir()))
    for _ in range(30):
        with stack.run() as run, run.connect() as client:
            client.sendall(run.head(1000))
            assert run.ask()[0] == 200
    later = len(list(gate.iterdir()))
    assert later < before + 10, f"{later} open files instead of {before}"
