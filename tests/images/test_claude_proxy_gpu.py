"""What requests with tools may do where the container was given a GPU, and what stays shut.

No GPU is asked: devices of the kernel that every machine has stand under the names of its device files. What the driver's
library does when it starts (CUDA's error 304 is what refusals end in) is done here by programs of the real CLI's Bash.
"""

from __future__ import annotations

import base64
import concurrent.futures
import json
import shlex
from typing import Any

import pytest

import docker
from shipyard.models import BuildResult
from tests.support.claude_proxy_image import bash, chat, said, serving
from tests.support.service import wait_until

pytestmark = pytest.mark.native("qemu-user offers no Landlock, without which the proxy runs no tools")
Built = dict[tuple[str, str], BuildResult]
NODES = ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps/nvidia-cap1")
DEVICES = [f"/dev/null:/dev/{name}:rw" for name in NODES]
#: Tries each thing in a program below the CLI's shell; prints what became of each, as JSON.
TRY = """
import ctypes, json, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
# As the C library opens them: Python's own calls set another flag.
def opened(path, flags):
    file = libc.open(path.encode(), flags)
    if file < 0:
        raise OSError(ctypes.get_errno(), path)
    return file
def name(_):
    ready = threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), threading.Event().wait()), daemon=True)
    thread.start()
    ready.wait()
    if failed := libc.pthread_setname_np(ctypes.c_ulong(thread.ident), b"cuda-worker"):
        raise OSError(failed, "name")
    assert os.read(opened(f"/proc/{os.getpid()}/task/{thread.native_id}/comm", os.O_RDWR), 20) == b"cuda-worker\\n"
def odd(_):
    libc.prctl(15, b"\\xff\\xfe")  # PR_SET_NAME
    opened(f"/proc/{os.getpid()}/stat", os.O_RDONLY)
def often(_):
    # Orphans end meanwhile, each of which its keeper hears of.
    pid = os.fork()
    while pid == 0:
        if os.fork() == 0:
            os.fork() or time.sleep(0.001)
            os._exit(0)
        os.wait()
    try:
        for _ in range(30_000):
            file = opened("/proc/self/maps", os.O_RDONLY)
            assert file > 2, file
            os.close(file)
    finally:
        os.kill(pid, 9)
ways = {
    "device": lambda path: os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC)),
    "list": os.listdir,
    "memory": lambda _: os.memfd_create("cuda"),
    "name": name,
    "odd name": odd,
    "often": often,
    "read": lambda path: os.read(opened(path, os.O_RDONLY), 1),
    "write": lambda path: open(path, "r+").write("1"),
    "open": lambda path: opened(path, os.O_RDWR),
}
def tried(way, target):
    try:
        ways[way](target)
    except OSError as error:
        return type(error).__name__
    return "done"
print(json.dumps([tried(*each) for each in json.loads(base64.b64decode(sys.argv[1]))]))
"""


@pytest.fixture(scope="module", params=["true", "false"])
def proxy(client: docker.DockerClient, built: Built, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Any:
    """With device files, and the setting that the target cuda has; and without that setting, as the control."""
    environment = {"CLAUDE_PROXY_GPU": request.param, "CLAUDE_PROXY_REQUEST_MEMORY_BYTES": str(600 << 20)}
    folder = tmp_path_factory.mktemp("keys")
    options = {"devices": DEVICES, "mem_limit": 2 << 30, "memswap_limit": 2 << 30}
    with serving(client, built["claude-proxy", "prod"].reference, folder, environment, **options) as container:
        container.gpu = request.param == "true"
        yield container


def tried(proxy: Any, *wanted: tuple[str, str]) -> list[str]:
    # In base64: brackets would end what the double takes for the tool's command.
    program, what = (base64.b64encode(text.encode()).decode() for text in (TRY, json.dumps(wanted)))
    answer = said(bash(proxy, f"python3 -c 'import base64; exec(base64.b64decode(\"{program}\"))' {what}"))
    found: list[str] = json.loads(answer[answer.rindex("[") :])
    return found


def test_the_device_files_of_gpus_are_open_to_tools_that_were_given_them(proxy: Any) -> None:
    wanted = [f"/dev/{name}" for name in NODES if name != "nvidia-modeset"]
    expected = ["done" if proxy.gpu else "PermissionError"] * len(wanted)
    assert tried(proxy, *(("device", path) for path in wanted)) == expected
    shut = ("/dev/nvidia-modeset", "/dev/tty0", "/dev/kmsg", "/dev/ptmx")
    assert "done" not in tried(proxy, *(("device", path) for path in shut))


def test_what_the_driver_does_when_it_starts_works_below_the_shell_too(proxy: Any) -> None:
    own = [("read", f"/proc/self/{name}") for name in ("maps", "status", "stat", "comm")]
    wanted = [
        ("name", ""),
        ("odd name", ""),
        ("often", ""),
        ("memory", ""),
        *own,
        ("read", "/proc/devices"),
        ("list", "/sys/devices/system/node"),
    ]
    assert tried(proxy, *wanted) == ["done" if proxy.gpu else "PermissionError"] * len(wanted)


def test_other_entries_stay_shut(proxy: Any) -> None:
    """Those of other processes, whichever name they go by, and those that no driver needs."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(bash, proxy, "sleep 50.25; echo ended")
        pid = wait_until(lambda: process(proxy, "sleep 50.25"), "the other request's tool", 20)
        others = [f"/proc/{each}" for each in (pid, 1, "self/../1", f"self/task/../../{pid}")]
        entries = [f"{each}/{name}" for each in others for name in ("comm", "status", "maps", "cmdline")]
        entries += [f"/proc/{pid}/task/{pid}/comm", f"/proc/self/task/{pid}/comm"]
        entries += [f"/proc/self/{name}" for name in ("environ", "mem", "cmdline", "attr/current", "root/etc/shadow")]
        found = tried(proxy, *(("read", each) for each in entries), *(("open", each) for each in entries))
        assert set(found) <= {"PermissionError", "FileNotFoundError"}, list(zip(entries * 2, found, strict=True))
        knobs = [f"/proc/self/{name}" for name in ("oom_score_adj", "autogroup", "coredump_filter", "clear_refs")]
        assert set(tried(proxy, *(("write", each) for each in knobs))) == {"PermissionError"}
        assert set(tried(proxy, ("list", "/proc"), ("open", "/proc/self/status"))) == {"PermissionError"}
        assert process(proxy, "sleep 50.25") == pid
        proxy.exec_run(["sh", "-c", f"kill {pid}"])
        assert "ended" in said(other.result())


def process(proxy: Any, command: str) -> int:
    """The number that a process has in the container; 0 if there is none."""
    script = "for each in /proc/[0-9]*; do echo ${each#/proc/} $(tr '\\0' ' ' < $each/cmdline); done"
    _, output = proxy.exec_run(["sh", "-c", script])
    lines = [line.split(None, 1) for line in output.decode().splitlines()]
    return next((int(line[0]) for line in lines if len(line) == 2 and line[1] == command), 0)


def test_ordinary_files_are_opened_as_ever(proxy: Any) -> None:
    """With the very flags that the keeper is asked about."""
    script = (
        "echo one > a; cat a; exec 3<>a; echo two >&3; exec 3>&-; cat a; cat nothing; cat /run/secrets/keys; echo end"
    )
    answer = said(bash(proxy, script))
    assert "one\ntwo\n" in answer
    assert "nothing: No such file" in answer
    assert "/run/secrets/keys: Permission denied" in answer
    assert answer.rstrip().endswith("end")


def test_memory_without_a_file_counts(proxy: Any) -> None:
    """Its writer never maps it, so that no figure of the process shows it."""
    script = "import os, time\nfile = os.memfd_create('a')\nfor _ in range(90): os.write(file, bytes(8 << 20))\ntime.sleep(30)"
    status, body = bash(proxy, f"python3 -c {shlex.quote(script)}")
    if proxy.gpu:
        assert (status, body["error"]["code"]) == (400, "claude_out_of_memory")
    else:
        assert "Operation not permitted" in said((status, body))
    assert said(chat(proxy, "hello")) == "echo: hello"


def test_memory_without_a_file_counts_once_where_it_is_mapped(proxy: Any) -> None:
    script = """
import mmap, os, time
file = os.memfd_create("a")
os.ftruncate(file, 300 << 20)
memory = mmap.mmap(file, 300 << 20)
while memory.tell() < len(memory): memory.write(bytes(1 << 20))
time.sleep(1)
"""
    answer = said(bash(proxy, f"python3 -c {shlex.quote(script)}; echo ended"))
    assert answer.rstrip().endswith("ended")
    assert ("Operation not permitted" in answer) != proxy.gpu


def test_the_log_says_which_gpus_there_are(proxy: Any) -> None:
    lines = [json.loads(line) for line in proxy.logs().decode().splitlines() if line.startswith("{")]
    told = [line["devices"] for line in lines if line.get("message") == "tools can use GPUs"]
    expected = sorted(f"/dev/{name}" for name in NODES if name != "nvidia-modeset")
    assert [sorted(each) for each in told] == ([expected] if proxy.gpu else [])
