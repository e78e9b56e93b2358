"""The only place that starts a process of ours.

Every child gets a process group of its own and, on Linux, a parent-death signal: whatever ends us (Ctrl-C, an error,
kill -9) ends it too. ``SHIPYARD_TRACE=1`` prints each ``+ argv`` before it runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shipyard import console, processes, signals
from shipyard.errors import CommandFailed, ToolMissing

#: Seconds a child gets to end after SIGTERM before it is killed.
GRACE = 5.0
#: Seconds between two looks at whether they have ended.
_LOOK = 0.02


@dataclass(frozen=True)
class Completed:
    """A finished process: its exit status and what it wrote."""

    status: int
    stdout: str
    stderr: str


def trace(argv: Sequence[str]) -> None:
    """Print the command about to run when ``SHIPYARD_TRACE`` asks for it."""
    if os.environ.get("SHIPYARD_TRACE"):
        console.info("+ " + shlex.join(argv))


@cache
def _bound() -> tuple[str, ...]:
    """What sets the parent-death signal and becomes the program that follows: setpriv(1) of util-linux, not of BusyBox.

    Not `preexec_fn`: around that Python runs hooks, and Ctrl-C that comes in a hook is forgotten, with a lock that nobody
    gives back.
    """
    found = shutil.which("setpriv")
    return (found, "--pdeathsig", "TERM", "--") if found and Path(found).resolve().name == "setpriv" else ()


@cache
def apart() -> tuple[str, ...]:
    """For libraries that start programs themselves: a session of its own, and the end when we end."""
    found = shutil.which("setsid")
    return (found, *_bound()) if found and Path(found).resolve().name == "setsid" else _bound()


class _Children:
    """Those of ours that run. A signal ends the ones that were started before it, in whichever thread that was."""

    def __init__(self) -> None:
        self._known: dict[int, subprocess.Popen[str]] = {}
        signals.listeners.append(self._end)

    def add(self, process: subprocess.Popen[str], *, uncut: bool) -> None:
        if not uncut:
            self._known[process.pid] = process

    def forget(self, process: subprocess.Popen[str]) -> None:
        self._known.pop(process.pid, None)

    def _end(self) -> None:
        for each in tuple(self._known.values()):
            if each.returncode is None:  # else its number may be another's by now
                with suppress(ProcessLookupError):
                    os.killpg(each.pid, signal.SIGKILL if signals.hurried() else signal.SIGTERM)


_children = _Children()


def _spawn(argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, stdin: int) -> subprocess.Popen[str]:
    trace(argv)
    # What is not there, or is no program, is to be told by the system, in its words.
    found = shutil.which(argv[0], path=(os.environ if env is None else env).get("PATH"))
    try:
        return subprocess.Popen(
            (*(_bound() if found else ()), *argv),
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
    except FileNotFoundError as missing:
        msg = f"{argv[0]}: program not found; install it"
        raise ToolMissing(msg) from missing


def end(process: subprocess.Popen[Any]) -> None:
    """End a child's whole process group: SIGTERM, then SIGKILL after ``GRACE`` seconds, or at a second signal to us."""
    if process.returncode is not None:
        return  # its number may be another's by now
    with signals.held(), suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and not signals.hurried() and processes.group(process.pid):
            time.sleep(_LOOK)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _child(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, stdin: int
) -> Iterator[subprocess.Popen[str]]:
    """A child for the time of the block, which does not outlive an exception in it."""
    signals.check()
    process: subprocess.Popen[str] | None = None
    uncut = signals.uncut()
    try:
        with signals.held():
            process = _spawn(argv, env, cwd, stdin)
            _children.add(process, uncut=uncut)
        yield process
    except BaseException:
        if process:
            end(process)
        raise
    finally:
        if process:
            _children.forget(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with suppress(OSError):
                        pipe.close()


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Completed:
    """Run a program to its end with captured output; ``timeout`` in seconds.

    Raises CommandFailed on a non-zero status (unless ``check`` is false) and on a timeout.
    """
    with _child(argv, env, cwd, subprocess.PIPE if text is not None else subprocess.DEVNULL) as process:
        try:
            stdout, stderr = process.communicate(text, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            end(process)
            raise CommandFailed(argv, -1, f"no answer within {timeout:g} s") from late
    if check and process.returncode:
        raise CommandFailed(argv, process.returncode, stderr or stdout)
    return Completed(process.returncode, stdout, stderr)


def watch(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str = "",
) -> int:
    """Run a program and hand over each line of its stderr as it comes; its stdout is drained. Returns the exit status."""
    import threading

    with _child(argv, env, cwd, subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        with suppress(BrokenPipeError):
            process.stdin.write(text)
            process.stdin.close()
        for line in process.stderr:
            on_line(line.rstrip("\n"))
        drain.join()
        return process.wait()


class _Detached(subprocess.Popen[bytes]):
    """A process that outlives us: who lets go of it did not forget it, and Python need not warn."""

    def __del__(self) -> None:
        pass


@cache
def _default() -> tuple[str, ...]:
    """What gives a program the default action for signals that we may have been started to ignore (`nohup`, `&` in a
    script): env(1) of coreutils 8.31 and newer. What outlives us, and its containers, have a life of their own.
    """
    argv = ("env", "--default-signal=INT,QUIT,HUP,TERM")
    try:
        return argv if run([*argv, "true"], check=False).status == 0 else ()
    except (ToolMissing, OSError):
        return ()


def detach(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that outlives us, in a session of its own; what it says is added to ``log``."""
    trace(argv)
    with log.open("ab") as output:
        return _Detached(
            (*(() if "=" in argv[0] else _default()), *argv),  # env would take such a name for a variable
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
