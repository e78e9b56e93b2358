"""What the CLI of one request can reach of the others and of the proxy, and what is left of it afterwards."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.claude_proxy_process import SECRET, Proxy, Start, alive, gone, running
from tests.support.service import wait_until

# Answers in no time, so that a thousand calls take seconds. It leaves a child of its own behind each time.
QUICK = """#!/bin/sh
if [ "$1" = --version ]; then echo "0.0.1 (quick)"; exit; fi
sleep 600 &
read -r line
echo '{"type":"result","subtype":"success","is_error":false,"result":"done","usage":{"output_tokens":2}}'
"""


def attempts(proxy: Proxy, *wanted: tuple[str, object]) -> list[str]:
    """What became of each of the things that a CLI tried."""
    found: list[str] = json.loads(proxy.chat("attempt " + json.dumps([[what, str(at)] for what, at in wanted])).text)
    return found


def test_another_request_cannot_be_reached(proxy: Proxy, cli: Path) -> None:
    other = proxy.open_stream("hang")
    next(other.events())
    (folder,) = proxy.folders()
    (pid,) = alive(cli)
    keeper = next(each for each in proxy.descendants() if each != pid)
    (folder / "work/secret").write_text("the other's")
    tried = attempts(
        proxy,
        ("read", folder / "system.txt"),
        ("read", folder / "work/secret"),
        ("write", folder / "work/mine"),
        ("list", folder),
        ("list", folder.parent),
        ("list", proxy.workspace),
        ("list", "/proc"),
        *[("read", f"/proc/{each}/{name}") for each in (pid, keeper) for name in ("environ", "cmdline", "maps")],
        *[("link", f"/proc/{each}/cwd") for each in (pid, keeper)],
        *[("kill", each) for each in (pid, keeper, proxy.launcher())],
    )
    assert set(tried) == {"PermissionError"}
    other.close()


def test_the_proxy_itself_cannot_be_reached(proxy: Proxy, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("hashes")
    for pid in (proxy.process.pid, proxy.launcher()):
        entries = [("read", f"/proc/{pid}/{name}") for name in ("environ", "mem", "maps", "cmdline", "status")]
        places = [("list", f"/proc/{pid}/fd"), ("link", f"/proc/{pid}/cwd"), ("kill", pid)]
        assert set(attempts(proxy, *entries, *places)) == {"PermissionError"}
    sources = Path(__file__).parents[2] / "src"
    outside = [("read", keys), ("list", sources), ("write", "/tmp/of-a-request"), ("list", "/tmp"), ("list", "/root")]
    assert set(attempts(proxy, *outside)) == {"PermissionError"}


def test_others_of_the_same_user_cannot_read_the_proxys_memory(tmp_path: Path, cli: Path) -> None:
    """What a CLI without any sandbox would see: the proxy hides itself, and its launcher never had a secret."""
    # Root may read everything as long as it has these capabilities; a container's user never has them.
    prefix = [] if os.getuid() else ["setpriv", "--bounding-set", "-sys_ptrace,-perfmon,-sys_admin"]
    settings = {"CLAUDE_PROXY_CLI": str(cli), "ANTHROPIC_API_KEY": SECRET}
    with running(tmp_path, settings, prefix) as proxy, subprocess.Popen([*prefix, "sleep", "60"]) as peer:
        pids = (proxy.process.pid, proxy.launcher(), peer.pid)
        script = "for pid in $@; do cat /proc/$pid/environ >/dev/null 2>&1 && echo open || echo shut; done"
        seen = subprocess.run([*prefix, "sh", "-c", script, "sh", *map(str, pids)], capture_output=True, check=True)
        peer.kill()
        environ = Path(f"/proc/{proxy.launcher()}/environ").read_bytes()
    assert seen.stdout.split() == [b"shut", b"shut", b"open"]
    assert b"ANTHROPIC" not in environ
    assert b"CLAUDE_PROXY" not in environ


def test_its_own_folder_the_system_and_the_provider_can_be_reached(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as provider:
        port = provider.getsockname()[1]
        with start(ANTHROPIC_BASE_URL=f"http://127.0.0.1:{port}") as proxy:
            own = [("write", "notes"), ("read", "notes"), ("list", ".."), ("read", "/etc/hostname")]
            system = [("run", "/bin/cat notes"), ("write", "/dev/null"), ("read", "/proc/meminfo"), ("connect", port)]
            tried = attempts(proxy, *own, *system)
            assert [each for each in tried if not each.startswith("done")] == []
            assert tried[1] == "done: written"
            other = [("connect", proxy.port), ("bind", "0")]
            assert attempts(proxy, *other) == ["PermissionError", "PermissionError"]


def test_sockets_without_a_name_in_the_file_system_stay_outside(proxy: Proxy) -> None:
    name = f"of-this-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        assert attempts(proxy, ("abstract", name)) == ["PermissionError"]


def test_what_left_its_session_ends_with_the_answer(proxy: Proxy, cli: Path) -> None:
    assert proxy.chat("orphan").text == "I am not alone"
    gone(cli)
    wait_until(lambda: proxy.descendants() == {}, "a keeper is still there")


def test_what_left_its_session_ends_with_the_client_and_at_the_deadline(start: Start, cli: Path) -> None:
    with start(CLAUDE_PROXY_DEADLINE="5") as proxy:
        stream = proxy.open_stream("escape")
        next(stream.events())
        wait_until(lambda: len(alive(cli)) == 2, "the CLI and what escaped from it did not start")
        stream.close()
        gone(cli, 2.5)
        assert proxy.chat("escape").code == "deadline_exceeded"
        assert alive(cli) == []


def test_nothing_outlives_a_proxy_that_was_killed(start: Start, cli: Path) -> None:
    with start() as proxy:
        stream = proxy.open_stream("escape")
        next(stream.events())
        wait_until(lambda: len(alive(cli)) == 2, "the CLI and what escaped from it did not start")
        proxy.process.kill()
        proxy.process.wait(10)
        gone(cli)
        stream.close()


def test_a_launcher_that_ended_is_replaced_and_running_calls_go_on(proxy: Proxy, cli: Path) -> None:
    stream = proxy.open_stream("slow 1")
    events = stream.events()
    next(events)
    os.kill(proxy.launcher(), signal.SIGKILL)
    assert proxy.chat("hello").text == "you said hello"
    assert list(events)[-1] == "[DONE]"
    stream.close()
    gone(cli)


def test_a_thousand_calls_leave_no_process_and_no_folder(tmp_path: Path) -> None:
    quick = tmp_path / "quick"
    quick.write_text(QUICK)
    quick.chmod(0o755)
    with running(tmp_path, {"CLAUDE_PROXY_CLI": str(quick), "ANTHROPIC_API_KEY": SECRET}) as proxy:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            texts = set(pool.map(lambda number: proxy.chat(f"call {number}").text, range(1000)))
        assert texts == {"done"}
        wait_until(lambda: proxy.descendants() == {}, "something is left of the calls")
        wait_until(lambda: proxy.folders() == [], "a request's folder is still there")
        sample = 'claude_proxy_requests_total{model="sonnet",outcome="ok"}'
        wait_until(lambda: proxy.metric(sample) == 1000, "not every call counts as one that went well")


def test_the_sandbox_is_part_of_readiness(start: Start) -> None:
    with start(CLAUDE_PROXY_SANDBOX="required") as proxy:
        state = proxy.request("GET", "/health/ready").json()["dependencies"]["sandbox"]
        assert state == {"state": "ok", "required": True}
