"""Bombs without end, by the real CLI's own Bash in the production image: they hurt the request that throws them only."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest

import docker
from shipyard.models import BuildResult
from tests.support.claude_proxy_image import bash, chat, said, serving
from tests.support.service import wait_until

pytestmark = pytest.mark.native("qemu-user offers no Landlock, without which the proxy runs no tools")
Built = dict[tuple[str, str], BuildResult]
PIDS, MEMORY = 512, 2 << 30
FORKS = "forks() { forks | forks & }; forks; sleep 60"
MEMORY_STEPS = "python3 -c 'kept = list()\nwhile True: kept.append(bytearray(b\"x\" * (8 << 20)))'"
MEMORY_AT_ONCE = "python3 -c 'kept = bytearray(b\"x\") * (1900 << 20)'; sleep 60"
# Below the bound of one request, but several such leave little of what all of them have.
SLEEPERS = "for i in {1..100}; do sleep 5 & done; wait; echo slept"


@pytest.fixture(scope="module")
def proxy(client: docker.DockerClient, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With half of the memory that production has."""
    options = {"pids_limit": PIDS, "mem_limit": MEMORY, "memswap_limit": MEMORY}
    folder = tmp_path_factory.mktemp("keys")
    with serving(client, built["claude-proxy", "prod"].reference, folder, **options) as container:
        yield container


def alive(container: Any) -> bool:
    """Whether the image's own health check passes now."""
    status, _ = container.exec_run(["python3", "-m", "serving.probe", "http://127.0.0.1:3010/health/live"])
    return bool(status == 0)


def processes(container: Any) -> int:
    return len(container.top()["Processes"])


@pytest.mark.parametrize(
    ("bomb", "code"),
    [
        (FORKS, "claude_too_many_processes"),
        (MEMORY_STEPS, "claude_out_of_memory"),
        (MEMORY_AT_ONCE, "claude_out_of_memory"),
    ],
    ids=["forks", "memory in steps", "memory at once"],
)
def test_a_bomb_without_end_hurts_its_own_request_only(proxy: Any, bomb: str, code: str) -> None:
    before = processes(proxy)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        thrown = pool.submit(bash, proxy, bomb)
        assert said(chat(proxy, "hello")) == "echo: hello"
        assert said(bash(proxy, "echo hi | cat")).endswith("hi")
        assert alive(proxy)
        status, body = thrown.result()
    assert (status, body["error"]["code"]) == (400, code)
    assert alive(proxy)
    wait_until(lambda: processes(proxy) <= before, "the end of all that the bomb started")
    proxy.reload()
    assert not proxy.attrs["State"]["OOMKilled"]


def test_requests_that_take_all_they_may_leave_room_for_others(proxy: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        held = [pool.submit(bash, proxy, SLEEPERS) for _ in range(4)]
        wait_until(lambda: processes(proxy) > 100, "a request with many processes", 40)
        assert said(chat(proxy, "hello")) == "echo: hello"
        assert said(bash(proxy, "echo hi | cat")).endswith("hi")
        assert alive(proxy)
        assert [each.result() for each in held if each.result()[0] != 200] == []
