"""No room: Redis at its memory's bound and beyond its container's, volumes and logs that are full; clients call all the time."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator

import pytest

from tests.support import caller, faults
from tests.support.service import wait_until
from tests.support.stack import Checkout

KINDS = (caller.models, caller.chat, caller.cached, caller.stream)
#: In a container that holds both volumes: fill them to the last byte, or make room again.
FILL = """
import contextlib, pathlib
for place in ("/redis-data", "/cache"):
    with contextlib.suppress(OSError), open(pathlib.Path(place, "ballast"), "ab", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
"""
EMPTY = "import pathlib; [pathlib.Path(place, 'ballast').unlink() for place in ('/redis-data', '/cache')]"


@pytest.fixture(scope="module")
def small(copy: Checkout) -> Iterator[Checkout]:
    """Volumes of a few megabytes, and little memory for Redis."""
    copy.extra.append(copy.root / "tests/faults/small.yaml")
    copy.invoke("prod")
    yield copy


def question(word: str) -> dict[str, object]:
    return {"model": "openai/gpt-test", "messages": [{"role": "user", "content": word}], "temperature": 0}


def in_holder(copy: Checkout, program: str) -> None:
    copy.docker("exec", copy.container("holder"), "python3", "-c", program)


def test_redis_killed_for_its_memory_comes_back_with_its_data(small: Checkout) -> None:
    container, word = small.container("redis"), secrets.token_hex(8)
    assert faults.in_api(small, faults.FILL, "kept", "10", "100000") == "10"
    assert small.redis("set", "llm-call:test", word) == "OK"
    begun = small.docker("info", "--format", "{{.SystemTime}}").strip()
    with caller.calling(small, *KINDS) as record:
        faults.in_api(small, faults.HOLD)
        fault = time.monotonic()
        wait_until(lambda: faults.restarts(small, container) == 1, "the end of redis")
        faults.await_recovery(small, fault)
    until = small.docker("info", "--format", "{{.SystemTime}}").strip()
    events = ("events", "--since", begun, "--until", until, "--filter", f"container={container}", "--format")
    assert "oom" in small.docker(*events, "{{.Action}}").split()
    assert record.failures == []
    assert small.redis("get", "llm-call:test") == word
    assert {len(small.redis("get", f"llm-call:kept:{number}")) for number in range(10)} == {100000}


def test_full_volumes_cost_the_cache_and_nothing_else(small: Checkout) -> None:
    """Redis refuses what it cannot keep; the gateway works without it and says why. Nothing that it accepted is lost."""
    assert small.redis("set", "llm-call:before", "there") == "OK"
    accepted = []
    with caller.calling(small, *KINDS) as record:
        in_holder(small, FILL)

        def refused() -> bool:
            key = f"llm-call:{secrets.token_hex(8)}"
            answer = small.redis("set", key, "x" * 1000)
            accepted.extend([key] if answer == "OK" else [])
            return "MISCONF" in answer

        wait_until(refused, "Redis to refuse", 30)
        ready = wait_until(lambda: degraded(small), "readiness to say so")
        assert "No space left on device" in ready["dependencies"]["redis"]["reason"]
        answer = small.ask("POST", "/v1/chat/completions", question(secrets.token_hex(8)))
        assert (answer[0], answer[2]["x-llm-call-cache"]) == (200, "off")
        assert free_for_the_cache(small) == 0
        in_holder(small, EMPTY)
        faults.await_recovery(small, time.monotonic())
        assert free_for_the_cache(small) > 0
    assert record.failures == []
    assert min(record.answers.values()) > 1
    restart_redis(small)  # what it holds now is what is on the disk
    assert small.redis("get", "llm-call:before") == "there"
    assert [key for key in accepted if len(small.redis("get", key)) != 1000] == []
    word = secrets.token_hex(8)
    answers = [small.ask("POST", "/v1/chat/completions", question(word)) for _ in range(2)]
    assert [answer[2]["x-llm-call-cache"] for answer in answers] == ["miss", "hit"]


def degraded(copy: Checkout) -> object:
    status, body, _ = copy.ask("GET", "/health/ready")
    assert status == 200
    return body if body["status"] == "degraded" else None


def free_for_the_cache(copy: Checkout) -> float:
    with copy.request("GET", "/metrics") as response:
        lines = response.read().decode().splitlines()
    (line,) = [each for each in lines if each.startswith('llm_call_disk_free_bytes{path="/app/cache"}')]
    return float(line.split()[1])


def restart_redis(copy: Checkout) -> None:
    container = copy.container("redis")
    before = faults.restarts(copy, container)
    faults.kill(copy, container)
    fault = time.monotonic()
    wait_until(lambda: faults.restarts(copy, container) > before, "the engine's restart")
    faults.await_recovery(copy, fault)


def test_redis_killed_on_a_full_volume_starts_and_holds_what_was_there(small: Checkout) -> None:
    word = secrets.token_hex(8)
    assert small.redis("set", "llm-call:test", word) == "OK"
    container = small.container("redis")
    before = faults.restarts(small, container)
    with caller.calling(small, *KINDS) as record:
        in_holder(small, FILL)
        faults.kill(small, container)
        wait_until(lambda: faults.restarts(small, container) > before, "the engine's restart")
        wait_until(lambda: holds(small, word), "Redis with its data", faults.RECOVERY)
        in_holder(small, EMPTY)
        faults.await_recovery(small, time.monotonic())
    assert record.failures == []


def holds(copy: Checkout, word: str) -> bool:
    """Whether Redis has it; while it starts, the engine and the client refuse the question."""
    try:
        return copy.redis("get", "llm-call:test") == word
    except AssertionError:
        return False


def test_redis_at_its_bound_evicts_and_serves(copy: Checkout) -> None:
    """Production's own bounds: more than maxmemory is written, and the container's limit is far."""
    copy.invoke("down", "--volumes")
    copy.extra[1:] = []
    copy.invoke("prod")
    container = copy.container("redis")
    (inspected,) = json.loads(copy.docker("inspect", container))
    bound, entry = faults.info(copy, "maxmemory"), 5_000_000
    count = str(bound // entry + 4)
    with caller.calling(copy, *KINDS, pause=0.1) as record:
        assert faults.in_api(copy, faults.FILL, "fill", count, str(entry)) == count
        assert faults.info(copy, "evicted_keys") > 0
    assert record.failures == []
    assert faults.info(copy, "used_memory") <= bound * 1.05
    assert faults.info(copy, "used_memory_peak") < inspected["HostConfig"]["Memory"]
    assert faults.restarts(copy, container) == 0
    faults.await_recovery(copy, time.monotonic())
    answers = [copy.ask("POST", "/v1/chat/completions", question("at the bound")) for _ in range(2)]
    assert [answer[2]["x-llm-call-cache"] for answer in answers] == ["miss", "hit"]


def test_a_flood_of_log_lines_leaves_little(copy: Checkout) -> None:
    """40 MB through a container that logs as ours do; and ours all do."""
    options = []
    for container in copy.containers():
        (found,) = json.loads(copy.docker("inspect", container))
        if found["Config"]["Labels"]["com.docker.compose.service"] not in ("openai-upstream", "messages-api"):
            options.append(found["HostConfig"]["LogConfig"])
    assert options == [{"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}] * len(options)
    image = copy.docker("inspect", "--format", "{{.Image}}", copy.container("llm-call-api")).strip()
    words = [word for name, value in options[0]["Config"].items() for word in ("--log-opt", f"{name}={value}")]
    program = "import sys\nfor n in range(40000): print(f'{n} ' + 'x' * 1000)"
    flood = copy.docker("create", "--log-driver", "json-file", *words, image, "python3", "-c", program).strip()
    try:
        copy.docker("start", flood)
        assert copy.docker("wait", flood).strip() == "0"
        files = faults.log_files(copy, flood)
        assert "39999 x" in files[0].read_text()
        assert len(files) == 3
        assert sum(each.stat().st_size for each in files) <= 3 * 10 * 1024 * 1024 + 4096
    finally:
        copy.docker("rm", "--force", flood)
