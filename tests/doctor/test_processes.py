"""Programs that verbs start: Ctrl-C in any moment counts, they end with whoever started them, what is missing is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shipyard import processes, run
from shipyard.errors import CommandFailed, ToolMissing
from tests.support.dispositions import by_default, ignoring
from tests.support.service import wait_until
from tests.support.stack import ROOT


def python(code: str, *words: str, **options: object) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    return subprocess.Popen(by_default([sys.executable, "-c", code, *words]), **pipes)  # type: ignore[call-overload,no-any-return]


def test_no_hook_runs_in_which_ctrl_c_would_be_lost() -> None:
    """Python forgets an exception in a hook around a fork, and logging's keeps its lock then: the next one waits for ever."""
    code = """
import logging, os, signal
from shipyard import run
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
run.run(["true"])
os.kill(os.getpid(), signal.SIGINT)
"""
    _, said = (process := python(code)).communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, said
    assert "Exception ignored" not in said


def test_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    """Twenty loops that do nothing but start programs; before, one in sixteen went on."""
    code = "import logging\nfrom shipyard import run\nwhile True: run.run(['true']); print(flush=True)"
    for _ in range(20):
        with (tmp_path / "said").open("w") as said:
            process = python(code, stdout=subprocess.PIPE, stderr=said)
            assert process.stdout
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            with process.stdout:
                assert process.wait(30) == -signal.SIGINT


#: A verb whose child, or its child's child, does not end by SIGTERM.
DEAF = """
import subprocess, sys
from shipyard import run, signals
signals.own()
run.GRACE = float(sys.argv[2])
try:
    with signals.of_a_verb():
        run.watch(["sh", "-c", sys.argv[1]], lambda line: print(line, flush=True))
except signals.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize(
    "child",
    [
        "trap '' TERM; echo $$ >&2; while :; do sleep 1; done",
        "(trap '' TERM; exec sh -c 'echo $$ >&2; while :; do sleep 1; done') & wait",
    ],
)
@pytest.mark.parametrize(("count", "grace"), [(1, 1), (2, 600)])
def test_a_second_signal_ends_the_waiting_for_children(child: str, count: int, grace: int) -> None:
    """After the first one they get some time; with ten minutes of it only the second one ends this test."""
    process = python(DEAF, child, str(grace))
    assert process.stdout
    pid = int(process.stdout.readline())
    for _ in range(count):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: _heard(process.pid), "the signal")
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert processes.started(pid) is None


def _heard(pid: int) -> bool:
    """Whether no signal waits for a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return all(int(line.split()[1], 16) == 0 for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd")))


def test_children_of_other_threads_end_too() -> None:
    """A pool waits for its threads, which wait for their children."""
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from shipyard import run, signals
signals.own()
try:
    with signals.of_a_verb(), ThreadPoolExecutor() as pool:
        child = ["sh", "-c", "echo $$ >&2; sleep 60"]
        found = [pool.submit(run.watch, child, lambda line: print(line, flush=True)) for _ in range(3)]
        for each in found: each.result()
except signals.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
    process = python(code)
    assert process.stdout
    pids = [int(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=run.GRACE)
    assert process.returncode == 129
    assert [pid for pid in pids if processes.started(pid) is not None] == []


def test_what_outlives_us_has_the_default_actions(tmp_path: Path) -> None:
    """Also when the verb runs under nohup, or in the background of a script."""
    code = f"""
from pathlib import Path
from shipyard import run
run.detach(["cat", "/proc/self/status"], Path("{tmp_path}/log")).wait()
"""
    subprocess.run(ignoring([sys.executable, "-c", code], "INT,HUP"), cwd=ROOT, check=True)
    (ignored,) = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("SigIgn")]
    assert int(ignored.split()[1], 16) & 0b11 == 0


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    process = python(f"from shipyard import run\nrun.run(['sh', '-c', 'echo $$ > {place}; exec sleep 600'])")
    wait_until(lambda: place.exists() and place.read_text().endswith("\n"), "the program", 30)
    pid = int(place.read_text())
    process.kill()
    process.communicate()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end", 10)


def test_what_is_not_there_or_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolMissing, match=r"^no-such-program: program not found; install it"):
        run.run(["no-such-program"])
    (tmp_path / "text").write_text("text\n")
    with pytest.raises(PermissionError):
        run.run([str(tmp_path / "text")])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "only-here").write_text("#!/no/such/interpreter\n")
    (tmp_path / "only-here").chmod(0o755)
    with pytest.raises(CommandFailed, match="only-here: No such file or directory"):
        run.run(["only-here"])


def test_a_path_of_the_child_s_own_counts(tmp_path: Path) -> None:
    (tmp_path / "only-here").write_text("#!/bin/sh\necho $1\n")
    (tmp_path / "only-here").chmod(0o755)
    assert run.run(["only-here", "--help"], env={"PATH": str(tmp_path)}).stdout == "--help\n"


def test_any_name_of_a_process_is_read() -> None:
    """Of one that got a number which a process of ours once had."""
    code = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'\\xff) (\\xfe'); print(flush=True); sys.stdin.read()"
    process = python(code, stdin=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    assert processes.started(process.pid)
    process.communicate()
    assert processes.started(process.pid) is None
