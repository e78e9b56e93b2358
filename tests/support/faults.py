"""Faults put on a stack from outside, and what its clients and the engine then say."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

from tests.support.caller import Client, Record
from tests.support.stack import Checkout

#: Seconds that anything has to be well again by itself.
RECOVERY = 30.0


def through_cli(client: Client, number: int) -> tuple[int, bytes]:
    """A question for the Claude CLI: API, claude-proxy, CLI, egress, a double of the provider."""
    body = {"model": "max/sonnet", "messages": [{"role": "user", "content": f"call {number}"}]}
    return client.ask("POST", "/v1/chat/completions", body)


def init(copy: Checkout, container: str) -> int:
    """The process of this machine that is process 1 of a container; the engine takes its end for a crash."""
    return int(copy.docker("inspect", "--format", "{{.State.Pid}}", container))


def kill(copy: Checkout, container: str) -> None:
    """kill -9, as the kernel does it: `docker kill` would count as stopped by hand."""
    os.kill(init(copy, container), signal.SIGKILL)


def restarts(copy: Checkout, container: str) -> int:
    """How often the engine has started a container again."""
    return int(copy.docker("inspect", "--format", "{{.RestartCount}}", container))


def members(copy: Checkout, container: str) -> list[int]:
    """Every process of a container but its init, as this machine numbers them."""
    first = init(copy, container)
    return [number for number in map(int, copy.docker("top", container, "-eo", "pid").split()[1:]) if number != first]


def unwell(copy: Checkout) -> list[str]:
    """What is wrong: containers that are not healthy, instances that the balancer does not count, what readiness says."""
    words = "{{.Name}} {{.State.Status}} {{with .State.Health}}{{.Status}}{{end}}"
    states = copy.docker("inspect", "--format", words, *copy.containers(stopped=True)).splitlines()
    found = [state for state in states if not state.endswith(" running healthy")]
    try:
        counted = copy.ask("GET", "/health/balancer")[1]["instances"]
        status, ready, _ = copy.ask("GET", "/health/ready")
    except (OSError, ValueError, http.client.HTTPException) as problem:
        return [*found, f"the balancer: {problem!r}"]
    if counted != len(copy.containers("llm-call-api")):
        found.append(f"the balancer counts {counted} instances")
    return found if (status, ready.get("status")) == (200, "ok") else [*found, f"readiness: {status} {ready}"]


def await_recovery(copy: Checkout, fault: float) -> float:
    """Wait until the stack is well again by itself and return how many seconds after `fault` (of time.monotonic) that was."""
    while found := unwell(copy):
        assert time.monotonic() - fault < RECOVERY, f"after {RECOVERY:g} s: {found}"
        time.sleep(0.2)  # what recovers needs the cores, too
    return time.monotonic() - fault


def failures(record: Record) -> Counter[tuple[str, str]]:
    """How many requests failed, by kind and by what the client saw: ``502 instance_lost``, or an exception's name."""
    found: Counter[tuple[str, str]] = Counter()
    for line in record.failures:
        kind, _, problem = line.partition(" s ")[2].partition(": ")
        code = re.search(r'"code":"(\w+)"', problem)
        found[kind, problem.split()[0] + (f" {code[1]}" if code else "")] += 1
    return found


def log(copy: Checkout, container: str) -> list[dict[str, object]]:
    """A container's log lines that are JSON."""
    lines = copy.docker("logs", container).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def log_files(copy: Checkout, container: str) -> list[Path]:
    """Where the engine keeps a container's log."""
    path = Path(copy.docker("inspect", "--format", "{{.LogPath}}", container).strip())
    return sorted(path.parent.glob(f"{path.name}*"))


#: Run in an instance of the API, with its client library and password: so many entries of so many bytes, each
#: acknowledged; prints how many were.
FILL = """
import pathlib, redis, sys
password = pathlib.Path("/run/secrets/redis_password").read_text().strip()
server = redis.Redis("redis", username="llm-call-api", password=password)
print(sum(server.set(f"llm-call:{sys.argv[1]}:{n}", b"x" * int(sys.argv[3])) for n in range(int(sys.argv[2]))))
"""
#: The same place; requests that are never finished, each held in the memory of Redis; ends when Redis does.
HOLD = """
import contextlib, pathlib, socket
password = pathlib.Path("/run/secrets/redis_password").read_text().strip()
with contextlib.suppress(OSError):
    held = []
    while True:
        held.append(socket.create_connection(("redis", 6379), timeout=5))
        held[-1].sendall(f"AUTH llm-call-api {password}\\r\\n".encode())
        held[-1].recv(100)
        held[-1].sendall(b"*3\\r\\n$3\\r\\nSET\\r\\n$10\\r\\nllm-call:x\\r\\n$30000000\\r\\n" + b"x" * 29_000_000)
"""


def in_api(copy: Checkout, program: str, *words: str) -> str:
    """What a program prints in an instance of the API."""
    return copy.docker("exec", copy.containers("llm-call-api")[0], "python3", "-c", program, *words).strip()


def info(copy: Checkout, name: str) -> int:
    """A figure of Redis, asked as the user that monitoring has."""
    (password,) = json.loads((copy.root / "secrets/redis-exporter/redis_passwords.json").read_text()).values()
    words = ("redis-cli", "--no-auth-warning", "--user", "exporter", "--pass", password, "info", "everything")
    found = re.search(rf"^{name}:(\d+)", copy.docker("exec", copy.container("redis"), *words), re.MULTILINE)
    assert found, name
    return int(found[1])
