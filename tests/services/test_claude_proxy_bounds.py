"""A request that takes too much is ended, says why, and costs nobody else anything.

Each bomb here has an end of its own, so that this machine survives a proxy without bounds; those without end are in
tests/images.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from claude_proxy import tree
from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import Answer, Proxy, messages_api, running
from tests.support.service import wait_until

KEY = "sk-of-this-test"
PYTHON = getattr(sys, "_base_executable", sys.executable)
MIB = 1 << 20
PIDS, MEMORY, DISK = 64, 320 * MIB, 32 * MIB
BOMBS = """
import mmap, os, sys, threading, time

def forks():
    for _ in range(300):
        if not os.fork():
            break
    time.sleep(20)

def orphans():
    for _ in range(300):
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            break
    time.sleep(20)

def zombies():
    for _ in range(300):
        if not os.fork():
            os._exit(0)
    time.sleep(20)

def threads():
    for _ in range(300):
        threading.Thread(target=time.sleep, args=(20,)).start()

def steps():
    kept = []
    for _ in range(200):
        kept.append(bytearray(b"x" * (4 << 20)))
    time.sleep(20)

def at_once():
    whole = bytearray(b"x") * (800 << 20)
    time.sleep(20)

def shared():
    whole = mmap.mmap(-1, 800 << 20)
    for _ in range(800):
        whole.write(b"x" * (1 << 20))
    time.sleep(20)

def spread():
    for _ in range(20):
        if not os.fork():
            part = bytearray(b"x") * (40 << 20)
            break
    time.sleep(20)

def common():
    whole = bytearray(b"x") * (100 << 20)
    for _ in range(10):
        if not os.fork():
            time.sleep(1)
            os._exit(0)
    for _ in range(10):
        os.wait()
    print("in common")

def files():
    for number in range(20):
        with open(f"f{number}", "wb") as file:
            file.write(b"x" * (8 << 20))
    time.sleep(20)

def one_file():
    try:
        with open("f", "wb") as file:
            for _ in range(20):
                file.write(b"x" * (8 << 20))
    finally:
        time.sleep(1.2) # the file stays, and is looked at twice

def empty_files():
    for number in range(20_000):
        os.close(os.open(f"f{number}", os.O_CREAT))
    time.sleep(20)

def hidden():
    os.memfd_create("of a request")

def modest():
    workers = [threading.Thread(target=time.sleep, args=(0.5,)) for _ in range(20)]
    kept = bytearray(b"x") * (64 << 20)
    for each in workers:
        each.start()
    with open("f", "wb") as file:
        file.write(b"x" * (16 << 20))
    time.sleep(0.7)
    print("fits")

try:
    globals()[sys.argv[1]]()
except OSError as error:
    print(type(error).__name__, error.errno)
"""
Start = Callable[..., AbstractContextManager[Proxy]]
Detonate = Callable[[Proxy, str], Answer]


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bombs") / "bombs.py"
    path.write_text(BOMBS)
    return path


def bounded(folder: Path, bombs: Path, **settings: str) -> AbstractContextManager[Proxy]:
    """A proxy with small bounds and a key whose requests have tools."""
    (folder / "keys").write_text(f"worker:{hashlib.sha256(KEY.encode()).hexdigest()} tools=Bash")
    bounds = {"PIDS": PIDS, "MEMORY_BYTES": MEMORY, "DISK_BYTES": DISK}
    base = {f"CLAUDE_PROXY_REQUEST_{name}": str(value) for name, value in bounds.items()}
    base |= {"ANTHROPIC_API_KEY": "sk-any", "CLAUDE_PROXY_KEYS_FILE": str(folder / "keys")}
    return running(folder, base | {"CLAUDE_PROXY_READABLE": f"{sys.base_prefix}:{bombs}"} | settings)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, bombs: Path) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with bounded(folder, bombs, CLAUDE_PROXY_CLI=str(install(folder / "fake-claude"))) as proxy:
        yield proxy


@pytest.fixture
def detonate(bombs: Path) -> Detonate:
    def ask(proxy: Proxy, kind: str) -> Answer:
        return proxy.chat("attempt " + json.dumps([["run", f"{PYTHON} -IS {bombs} {kind}"]]), key=KEY)

    return ask


def nothing_left(proxy: Proxy) -> None:
    wait_until(lambda: proxy.descendants() == {}, "something is left of the request")
    wait_until(lambda: proxy.folders() == [], "the request's folder is still there")


@pytest.mark.parametrize(
    ("kind", "bound", "code"),
    [
        ("forks", "pids", "claude_too_many_processes"),
        ("orphans", "pids", "claude_too_many_processes"),
        ("zombies", "pids", "claude_too_many_processes"),
        ("threads", "pids", "claude_too_many_processes"),
        ("steps", "memory", "claude_out_of_memory"),
        ("at_once", "memory", "claude_out_of_memory"),
        ("shared", "memory", "claude_out_of_memory"),
        ("spread", "memory", "claude_out_of_memory"),
        ("files", "disk", "claude_out_of_disk"),
        ("empty_files", "disk", "claude_out_of_disk"),
    ],
)
def test_a_request_that_takes_too_much_ends_beside_others(
    proxy: Proxy, detonate: Detonate, kind: str, bound: str, code: str
) -> None:
    sample = f'claude_proxy_requests_ended_total{{bound="{bound}"}}'
    before, logged = proxy.metric(sample), proxy.log.stat().st_size
    other = proxy.open_stream("slow 1", key=KEY)
    events = other.events()
    next(events)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(detonate, proxy, kind)
        assert proxy.chat("hello", key=KEY).text == "you said hello"
        assert proxy.request("GET", "/health/live").status == 200
        ended = answer.result()
    assert (ended.status, ended.code) == (400, code), ended.body
    setting = {"pids": "PIDS", "memory": "MEMORY_BYTES", "disk": "DISK_BYTES"}[bound]
    assert f"CLAUDE_PROXY_REQUEST_{setting}" in ended.json()["error"]["message"]
    assert list(events)[-1] == "[DONE]"
    other.close()
    assert proxy.metric(sample) == before + 1
    assert f'"bound":"{bound}"' in proxy.log.read_text()[logged:]
    nothing_left(proxy)


def test_a_stream_that_takes_too_much_ends_with_an_error(proxy: Proxy, bombs: Path) -> None:
    stream = proxy.open_stream("attempt " + json.dumps([["run", f"{PYTHON} -IS {bombs} forks"]]), key=KEY)
    document = json.loads(stream.response.read())
    stream.close()
    assert (stream.response.status, document["error"]["code"]) == (400, "claude_too_many_processes")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("modest", "fits"), ("common", "in common"), ("one_file", "OSError 27"), ("hidden", "PermissionError 1")],
)
def test_what_fits_goes_on(proxy: Proxy, detonate: Detonate, kind: str, said: str) -> None:
    """Memory in common counts once; too large a file is an error of the tool, and memory files are none."""
    answer = detonate(proxy, kind)
    assert json.loads(answer.text) == [f"done: {said}\n"]


@pytest.mark.parametrize("listed", [True, False])
def test_the_processes_below_one_are_found_with_their_threads(monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    """Also where the kernel does not tell the children of a process."""
    monkeypatch.setattr(tree, "LISTED", listed)
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        shell.stdout.readline()
        found = tree.below(shell.pid)
        assert sorted(found) == sorted(tree.descendants(shell.pid))
        assert list(found.values()) == [1, 1]
        assert 0 < sum(tree.shared_out(found)) <= sum(tree.resident(found))
        tree.kill([*found, shell.pid])


@pytest.mark.cli
def test_the_real_cli_with_its_bash_ends_too(tmp_path: Path, bombs: Path) -> None:
    found = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    assert found, "no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH"

    def bash(command: str) -> str:
        return f"[[tool=Bash {json.dumps({'command': command})}]]"

    with messages_api() as port:
        settings = {"CLAUDE_PROXY_CLI": found, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}"}
        with bounded(tmp_path, bombs, **settings) as proxy, concurrent.futures.ThreadPoolExecutor(2) as pool:
            forks = pool.submit(proxy.chat, bash("for i in {1..300}; do sleep 20 & done; wait"), key=KEY)
            memory = pool.submit(proxy.chat, bash(f"{PYTHON} -IS {bombs} steps"), key=KEY)
            assert proxy.chat(bash("echo hi | cat"), key=KEY).text.endswith("the tool said: hi")
            assert forks.result().code == "claude_too_many_processes"
            assert memory.result().code == "claude_out_of_memory"
            nothing_left(proxy)
