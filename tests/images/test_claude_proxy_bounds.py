"""Bombs without end, by the real CLI's own Bash in the production image: they hurt the request that throws them only."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from typing import Any

import pytest

import docker
from shipyard.models import BuildResult
from tests.support.claude_proxy_process import DOUBLE
from tests.support.images import await_health, running
from tests.support.service import wait_until

pytestmark = pytest.mark.native("qemu-user offers no Landlock, without which the proxy runs no tools")
Built = dict[tuple[str, str], BuildResult]
KEY = "sk-of-this-test"
PIDS, MEMORY = 512, 2 << 30
FORKS = "forks() { forks | forks & }; forks; sleep 60"
MEMORY_STEPS = "python3 -c 'kept = list()\nwhile True: kept.append(bytearray(b\"x\" * (8 << 20)))'"
MEMORY_AT_ONCE = "python3 -c 'kept = bytearray(b\"x\") * (1900 << 20)'; sleep 60"
# Below the bound of one request, but several such leave little of what all of them have.
SLEEPERS = "for i in {1..100}; do sleep 5 & done; wait; echo slept"
#: Asks for a chat from inside the container, where only its own Python is.
CHAT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 3010, timeout=60)
body = {"model": "max/sonnet", "messages": [{"role": "user", "content": sys.argv[2]}]}
connection.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": "Bearer " + sys.argv[1]})
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


@pytest.fixture(scope="module")
def proxy(client: docker.DockerClient, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The proxy as in production, but that the Messages API is a double beside it and there is half of the memory."""
    folder = tmp_path_factory.mktemp("keys")
    folder.chmod(0o755)
    keys = folder / "keys"
    keys.write_text(f"worker:{hashlib.sha256(KEY.encode()).hexdigest()} tools=Bash")
    keys.chmod(0o444)
    reference = built["claude-proxy", "prod"].reference
    user = client.images.get(reference).attrs["Config"]["User"].split(":")[0]
    mounts = {str(keys): "/run/secrets/keys", str(DOUBLE): "/opt/messages_api.py"}
    options = {
        "environment": {
            "CLAUDE_PROXY_KEYS_FILE": "/run/secrets/keys",
            "CLAUDE_PROXY_SANDBOX": "required",
            "ANTHROPIC_API_KEY": "sk-any",
            "ANTHROPIC_BASE_URL": "http://127.0.0.1:9100",
        },
        "volumes": {source: {"bind": target, "mode": "ro"} for source, target in mounts.items()},
        "tmpfs": {"/tmp": "rw,noexec,nosuid,size=64m", "/workspace": f"rw,nosuid,size=64m,uid={user},mode=0700"},
        "network_mode": "none",
        "pids_limit": PIDS,
        "mem_limit": MEMORY,
        "memswap_limit": MEMORY,
    }
    with running(client, reference, **options) as container:
        await_health(container)
        container.exec_run(["python3", "/opt/messages_api.py", "--port", "9100"], detach=True)
        wait_until(lambda: chat(container, "hello")[0] == 200, "an answer of the CLI", 20)
        yield container


def chat(container: Any, text: str) -> tuple[int, Any]:
    status, output = container.exec_run(["python3", "-c", CHAT, KEY, text])
    assert status == 0, output.decode()
    answer, body = json.loads(output)
    return answer, body


def bash(container: Any, command: str) -> tuple[int, Any]:
    return chat(container, f"[[tool=Bash {json.dumps({'command': command})}]]")


def said(answer: tuple[int, Any]) -> str:
    status, body = answer
    assert status == 200, body
    return str(body["choices"][0]["message"]["content"])


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
        assert {each.result()[0] for each in held} == {200}
