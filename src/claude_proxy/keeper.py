"""One process for one CLI: starts it in its sandbox, and sees to it that nothing of it is left at the end.

Every orphan below it becomes its child, so that not even a process that left the CLI's group or session gets away. It
talks to the proxy over a socket: it says `pid N`, `error ERRNO` and `exit CODE`, a line each; it is told b"t" to end the
CLI, b"k" to kill it. The end of that socket means that the proxy is gone: everything is killed at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from claude_proxy import kernel, landlock, modes, seccomp

TERMINATE = b"t"
KILL = b"k"
GRACE_SECONDS = 1.2
"""From SIGTERM to SIGKILL; together with the kill itself it stays below 2 s."""
SWEEP_SECONDS = 0.002
"""Between two rounds of killing: the kernel needs a moment to end a process."""
NICE = 10
"""How far a CLI steps back. Measured with 16 CLIs on 2 cores: p99 of /health/live 10 ms instead of 56."""
LARGEST_FILE = 4 << 30
"""In bytes: what a tool writes by mistake must not fill the disk with one file."""


def keep(job: dict[str, Any], files: list[int], control: socket.socket) -> None:
    """Start what `job` describes and watch it to its end; this forked process has nothing to do afterwards."""
    kernel.adopt_orphans()
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    pid, error, listeners = _start(job, files)
    for each in files:
        os.close(each)
    if error:
        os.waitpid(pid, 0)
        _say(control, f"error {error}")
        return
    # An open handle keeps the kernel from forgetting the very entry of /proc that the sandbox allows.
    with contextlib.suppress(OSError):
        os.open(f"/proc/{pid}", os.O_PATH | os.O_CLOEXEC)
    _say(control, f"pid {pid}")
    _watch(pid, control, wake, listeners, modes.folders(job["write"]))
    end_all()


def end_all() -> None:
    """Kill every descendant and wait for it, until there is none."""
    while True:
        kill(descendants(os.getpid()))
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(SWEEP_SECONDS)


def kill(pids: Iterable[int]) -> None:
    """Kill these processes; who has ended already, or is not ours, is left alone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(ancestor: int, spared: Container[int] = ()) -> list[int]:
    """Return the processes below `ancestor`, by the parents that /proc tells now; not its children that are `spared`."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  # one listing, no object per process
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid for pid in children.get(ancestor, ()) if pid not in spared]
    for pid in found:
        found += children.get(pid, ())
    return found


def _watch(leader: int, control: socket.socket, wake: int, listeners: list[int], roots: list[str]) -> None:
    """Return when the CLI has ended, when its time after SIGTERM is over, or when the proxy is gone."""
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake, select.POLLIN)
    for each in listeners:
        poller.register(each, select.POLLIN)
    kill_at = float("inf")
    while True:
        left = kill_at - time.monotonic()
        if left <= 0:
            return
        for ready, event in poller.poll(None if left == float("inf") else left * 1000):
            if ready in listeners:
                if event & select.POLLIN:
                    modes.answer(ready, roots)
                else:
                    poller.unregister(ready)
            elif ready == wake:
                os.read(wake, 512)
                code = _reap(leader)
                if code is not None:
                    _say(control, f"exit {code}")
                    return
            elif (control.recv(1) or KILL) == KILL:
                return
            elif kill_at == float("inf"):
                kill_at = time.monotonic() + GRACE_SECONDS
                _signal_group(leader, signal.SIGTERM)


def _reap(leader: int) -> int | None:
    """Bury every child that has ended; return the leader's exit code if it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == leader:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


def _start(job: dict[str, Any], files: list[int]) -> tuple[int, int, list[int]]:
    """Fork and exec; return the process id, and the errno of what went wrong (0: nothing)."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        error = 1
        try:
            os.close(reader)
            _become(job, files, keeper, theirs)
        except OSError as fault:
            error = fault.errno or error
        finally:
            os.write(writer, str(error).encode())
            os._exit(127)
    os.close(writer)
    told = os.read(reader, 16)
    os.close(reader)
    theirs.close()
    listeners = socket.recv_fds(ours, 1, 1)[1] if job["abi"] else []
    ours.close()
    return pid, int(told or 0), listeners


def _become(job: dict[str, Any], files: list[int], keeper: int, tell: socket.socket) -> None:
    kernel.die_with(keeper)
    os.setsid()
    signal.set_wakeup_fd(-1)
    # What is ignored here would be ignored after the exec, too.
    for each in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    largest = LARGEST_FILE if hard == resource.RLIM_INFINITY else min(LARGEST_FILE, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    for target, source in enumerate(files):
        os.dup2(source, target)
    kernel.show()
    _step_back(job["oom_score_adj"])
    os.chdir(job["cwd"])
    kernel.forgo_privileges()
    if job["abi"]:
        landlock.restrict(job["abi"], job["read"], job["write"], job["ports"])
        listener = seccomp.restrict()
        socket.send_fds(tell, [b"l"], [listener])
        os.close(listener)
    os.execve(job["argv"][0], job["argv"], job["env"])


def _step_back(oom_score_adj: int) -> None:
    """Let the proxy go first where processors or memory are short: it answers health checks and passes answers on."""
    os.nice(NICE)
    # Where each session has a share of its own (autogroup), that share is what counts.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))
    # Best effort: less than what a container's own setting gives us is not allowed, nor meant.
    with contextlib.suppress(OSError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(max(oom_score_adj, int(score.read_text()))))


def _say(control: socket.socket, line: str) -> None:
    # A proxy that is gone hears nothing; the end of the socket says so in its turn.
    with contextlib.suppress(OSError):
        control.sendall(line.encode() + b"\n")


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
