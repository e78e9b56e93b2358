"""One process for one CLI: starts it in its sandbox, and sees to it that nothing of it is left at the end.

Every orphan below it becomes its child, so that not even a process that left the CLI's group or session gets away. It
talks to the proxy over a socket: it says `pid N`, `error ERRNO`, `exit CODE` and `over BOUND` (it ends a request that took
more than it may), a line each; it is told b"t" to end the CLI, b"k" to kill it. The end of that socket means that the
proxy is gone: everything is killed at once.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

from claude_proxy import bounds, kernel, landlock, modes, seccomp, tree
from claude_proxy.held import Answers
from serving import parent

TERMINATE = b"t"
KILL = b"k"
GRACE_SECONDS = 1.2
"""From SIGTERM to SIGKILL; together with the kill itself it stays below 2 s."""
SWEEP_SECONDS = 0.002
"""Between two rounds of killing: the kernel needs a moment to end a process."""
NICE = 10
"""How far a CLI steps back. Measured with 16 CLIs on 2 cores: p99 of /health/live 10 ms instead of 56."""
KEEPER_NICE = 5
"""A keeper comes before the CLI, and after the proxy: tools that fork without end make it work."""
OPEN_FILES = 4096
"""What a CLI and its tools may have open, each: buffers of sockets are memory that no figure of a process shows."""


def keep(job: dict[str, Any], files: list[int], control: socket.socket) -> None:
    """Start what `job` describes and watch it to its end; this forked process has nothing to do afterwards."""
    kernel.adopt_orphans()
    os.nice(KEEPER_NICE)
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
    guard = bounds.Guard(job)
    answers = [Answers(each, guard, modes.folders(job["write"]), woken) for each in listeners]
    try:
        for thread in answers:
            thread.start()
    except RuntimeError:  # the container has as many as it may
        _say(control, f"error {errno.EAGAIN}")
        return
    _say(control, f"pid {pid}")
    _Watch(guard, pid, control, wake, answers).run()
    # Nobody answers the filter's questions any more: whatever forks without end stands still until it is killed.
    for thread in answers:
        thread.stop()
    end_all()


def end_all() -> None:
    """Kill every descendant and wait for it, until there is none."""
    while True:
        tree.kill(tree.descendants(os.getpid()))
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(SWEEP_SECONDS)


class _Watch:
    """Over one CLI, until it has ended, its time after SIGTERM is over, it took too much, or the proxy is gone."""

    def __init__(
        self, guard: bounds.Guard, leader: int, control: socket.socket, wake: int, answers: list[Answers]
    ) -> None:
        self._guard, self._leader, self._control, self._wake, self._answers = guard, leader, control, wake, answers
        self._kill_at = math.inf
        self._poller = select.poll()
        for each in (control.fileno(), wake):
            self._poller.register(each, select.POLLIN)

    def run(self) -> None:
        """Return when there is nothing more to watch over, and all that is left has to be killed."""
        while True:
            left = self._kill_at - time.monotonic()
            if left <= 0:
                return
            # Rounded up: a look that is not due yet would be asked for again and again.
            for ready, _ in self._poller.poll(math.ceil(min(left, self._guard.pause()) * 1000)):
                if self._handle(ready):
                    return
            if over := next((each.over for each in self._answers if each.over), "") or self._guard.look():
                _say(self._control, f"over {over}")
                return

    def _handle(self, ready: int) -> bool:
        """Do what a file descriptor asks for; whether that was the end."""
        if ready == self._wake:
            os.read(ready, 512)
            code = _reap(self._leader)
            if code is not None:
                _say(self._control, f"exit {code}")
            return code is not None or any(each.failed for each in self._answers)
        if (self._control.recv(1) or KILL) == KILL:
            return True
        if self._kill_at == math.inf:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            _signal_group(self._leader, signal.SIGTERM)
        return False


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
    parent.die_with(keeper)
    os.setsid()
    signal.set_wakeup_fd(-1)
    # What is ignored here would be ignored after the exec, too.
    for each in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, bounds.largest_file(job["bounds"]["disk"]))
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    for target, source in enumerate(files):
        os.dup2(source, target)
    kernel.show()
    _step_back(job["oom_score_adj"])
    os.chdir(job["cwd"])
    kernel.forgo_privileges()
    if job["abi"]:
        landlock.restrict(job["abi"], job["read"], job["write"], job["ports"])
        listener = seccomp.restrict(job["gpu"], job["datagrams"])
        socket.send_fds(tell, [b"l"], [listener])
        os.close(listener)
    os.execve(job["argv"][0], job["argv"], job["env"])


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _step_back(oom_score_adj: int) -> None:
    """Let the proxy go first where processors or memory are short: it answers health checks and passes answers on."""
    os.nice(NICE - KEEPER_NICE)
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
