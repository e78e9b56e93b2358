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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shipyard import console
from shipyard.errors import CommandFailed, ToolMissing

#: Seconds a child gets to end after SIGTERM before it is killed.
GRACE = 5.0


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
    """End a child's whole process group: SIGTERM, then SIGKILL after ``GRACE`` seconds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end(process)
        raise
    finally:
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
    process = _spawn(argv, env, cwd, subprocess.PIPE if text is not None else subprocess.DEVNULL)
    with _ended(process):
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

    process = _spawn(argv, env, cwd, subprocess.PIPE)
    with _ended(process):
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


def detach(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that outlives us, in a session of its own; what it says is added to ``log``."""
    trace(argv)
    with log.open("ab") as output:
        return _Detached(
            argv,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
