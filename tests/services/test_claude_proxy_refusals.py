"""What the CLI of one request cannot do to the proxy and to other requests by system calls, and what it may do still."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import ROOT, Proxy, alive, running
from tests.support.service import wait_until

PROBE = ROOT / "tests/support/sandbox_probe.py"
PYTHON = getattr(sys, "_base_executable", sys.executable)
KEY = "sk-of-this-test"
# Root may go into every folder as long as it has these capabilities; a container's user never has them.
ORDINARY = [] if os.getuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
ON_A_PROCESS = ("limit", "nice", "affinity", "scheduler")
LEFT_BEHIND = ("shared_memory", "messages", "semaphores", "message_queue")
Start = Callable[..., AbstractContextManager[Proxy]]


@pytest.fixture
def cli(tmp_path: Path) -> Path:
    return install(tmp_path / "fake-claude")


@pytest.fixture
def start(tmp_path: Path, cli: Path) -> Start:
    def begin(**settings: str) -> AbstractContextManager[Proxy]:
        readable = f"{sys.base_prefix}:{PROBE}"
        base = {"CLAUDE_PROXY_CLI": str(cli), "ANTHROPIC_API_KEY": KEY, "CLAUDE_PROXY_READABLE": readable}
        return running(tmp_path, {**base, **settings}, ORDINARY)

    return begin


@pytest.fixture
def proxy(start: Start) -> Iterator[Proxy]:
    with start() as proxy:
        yield proxy


def attempts(proxy: Proxy, *wanted: tuple[str, object], **fields: Any) -> list[str]:
    tried = [[what, str(target)] for what, target in wanted]
    found: list[str] = json.loads(proxy.chat("attempt " + json.dumps(tried), **fields).text)
    return found


def inside(proxy: Proxy, *probes: tuple[str, object]) -> list[str]:
    """What became of each probe in the sandbox of a request."""
    found = attempts(proxy, *[("run", f"{PYTHON} -IS {PROBE} {what} {target}") for what, target in probes])
    return [each.removeprefix("done: ").strip() for each in found]


def outside(*probes: tuple[str, object]) -> list[str]:
    """The same in no sandbox, by a process of the same user."""
    argv = [PYTHON, "-IS", str(PROBE)]
    return [
        subprocess.run([*argv, what, str(target)], capture_output=True, text=True, check=True).stdout.strip()
        for what, target in probes
    ]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_no_mode_outside_the_own_folder_can_be_changed(proxy: Proxy) -> None:
    targets = (proxy.workspace, next(proxy.workspace.glob("proxy-*")), "..", "../..", "/dev/null", "/proc/self/cwd/..")
    probes = [("chmod", target) for target in targets]
    assert set(inside(proxy, *probes)) == {"PermissionError"}
    assert outside(probes[0], probes[1]) == ["done", "done"]
    assert proxy.chat("hello").status == 200


def test_modes_in_the_own_folder_can_be_changed(proxy: Proxy) -> None:
    assert inside(proxy, ("change", "mine"), ("change", "../tmp/mine"), ("chmod", ".")) == ["done"] * 3


def test_a_path_that_is_none_is_an_error_and_harms_nobody(proxy: Proxy) -> None:
    assert inside(proxy, ("bad_address", "-"), ("chmod", "nothing"), ("change", "mine")) == [
        "OSError",
        "FileNotFoundError",
        "done",
    ]


def test_a_link_leads_to_no_mode_outside(proxy: Proxy, tmp_path: Path) -> None:
    target = tmp_path / "of-another"
    target.touch(0o600)
    link = attempts(proxy, ("run", f"ln -s {target} link"), ("run", "chmod 0 link"), ("run", "chmod 0 ./link"))
    assert link == ["done: ", "CalledProcessError", "CalledProcessError"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_no_other_process_can_be_limited_or_slowed(proxy: Proxy) -> None:
    for pid in (proxy.process.pid, proxy.launcher()):
        probes = [(what, pid) for what in ON_A_PROCESS]
        assert set(inside(proxy, *probes, ("nice_all", "-"))) == {"PermissionError"}
        assert set(outside(*probes)) == {"done"}
    assert set(inside(proxy, *[(what, 0) for what in ON_A_PROCESS])) == {"done"}


def test_no_folder_can_be_watched(proxy: Proxy) -> None:
    probes = [("watch", path) for path in (proxy.workspace, "/tmp")]
    assert inside(proxy, *probes) == ["PermissionError"] * 2
    assert outside(*probes) == ["done"] * 2


def test_no_memory_outlives_a_request(proxy: Proxy) -> None:
    probes = [(what, "-") for what in LEFT_BEHIND]
    assert inside(proxy, *probes) == ["PermissionError"] * len(probes)
    assert outside(*probes) == ["done"] * len(probes)


def test_tcp_has_no_second_way_out(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert inside(proxy, ("mptcp", port), ("fastopen", port)) == ["PermissionError"] * 2
        # Not every kernel has MPTCP; what matters is that no permission is missing.
        controls = outside(("mptcp", port), ("fastopen", port))
        assert controls[0] in ("done", "OSError")
        assert controls[1] == "done"


def test_a_folder_that_resists_is_removed_with_its_request(proxy: Proxy) -> None:
    assert inside(proxy, ("bury", "grave")) == ["done"]
    wait_until(lambda: proxy.folders() == [], "the request's folder is still there")
    assert proxy.chat("hello").status == 200


def test_a_folder_that_resists_is_swept_by_the_next_start(start: Start, cli: Path) -> None:
    with start() as proxy:
        stream = proxy.open_stream("hang")
        next(stream.events())
        (left,) = proxy.folders()
        proxy.process.kill()
        proxy.process.wait(10)
        stream.close()
        wait_until(lambda: not alive(cli), "the CLI is still running")
    assert outside(("bury", left / "work/grave")) == ["done"]
    with start() as proxy:
        assert not left.parent.exists()
        assert proxy.chat("hello").status == 200


def test_what_a_killed_keeper_watched_over_ends_too(proxy: Proxy, cli: Path) -> None:
    other = proxy.open_stream("slow 3")
    events = other.events()
    next(events)
    spared = set(proxy.descendants())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(proxy.chat, "escape")
        wait_until(lambda: len(set(alive(cli)) - spared) == 2, "the CLI and what escaped from it did not start")
        doomed = set(alive(cli)) - spared
        (keeper,) = [pid for pid in children(proxy.launcher()) if pid not in spared]
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not doomed & set(alive(cli)), "something outlived its keeper")
        assert (answer.result().status, answer.result().code) == (502, "claude_cli_crashed")
    assert "signal 9" in answer.result().json()["error"]["message"]
    assert answer.result().headers["x-should-retry"] == "false"
    assert list(events)[-1] == "[DONE]"
    other.close()
    assert proxy.chat("hello").text == "you said hello"
    wait_until(lambda: proxy.descendants() == {}, "something is left, if only as a zombie")


def test_what_has_tools_goes_first_when_memory_ends(start: Start, tmp_path: Path) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    (tmp_path / "keys").write_text(f"worker:{hashlib.sha256(KEY.encode()).hexdigest()} tools=Read")
    with start(CLAUDE_PROXY_KEYS_FILE=str(tmp_path / "keys")) as proxy:
        score = ("read", "/proc/self/oom_score_adj")
        assert attempts(proxy, score, key=KEY) == [f"done: {max(500, own)}\n"]
        assert attempts(proxy, score, ("write", score[1]), key=KEY, claude_tools=[]) == [
            f"done: {max(200, own)}\n",
            "PermissionError",
        ]


def test_settings_of_services_are_out_of_reach_but_those_of_programs_are_not(proxy: Proxy) -> None:
    shut = [("list", "/etc"), ("read", "/etc/shadow"), ("read", "/etc/fstab"), ("list", "/etc/claude-proxy")]
    assert [each for each in attempts(proxy, *shut) if each.startswith("done")] == []
    needed = [("read", f"/etc/{name}") for name in ("passwd", "group", "hosts", "resolv.conf", "nsswitch.conf")]
    assert [each for each in attempts(proxy, *needed) if not each.startswith("done")] == []
