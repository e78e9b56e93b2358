"""Attempts on files. Done means that the file was there to be read, written or run."""

import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path


def write(path):
    """Make a new file, and remove it again."""
    with Path(path).open("x") as file:
        file.write("an intruder was here")
    Path(path).unlink()


def change(path):
    """Open an existing file for writing; nothing is written."""
    os.close(os.open(path, os.O_WRONLY))


def read(path):
    with Path(path).open("rb") as file:
        content = file.read(100)
    if not content:
        raise FileNotFoundError("nothing is in it")
    return content


def listing(path):
    return [each.name for each in Path(path).iterdir()]


def run_from(folder):
    """Run a program out of a folder that anyone may write to."""
    target = f"{folder}/program-{os.getpid()}"
    shutil.copy("/usr/bin/true", target)
    try:
        return subprocess.run([target], check=True).returncode
    finally:
        Path(target).unlink()


def become_root(program):
    """Run a copy of id(1) that belongs to root and has the set-user-ID bit."""
    user = subprocess.run([program, "-u"], capture_output=True, text=True, check=True).stdout.strip()
    if user != "0":
        raise PermissionError(f"it runs as user {user}")
    return user


def control_group():
    """Open for writing what says which limits a process is under, wherever this kernel's version of it lies."""
    return change(next(Path("/sys/fs/cgroup").rglob("cgroup.procs")))


def dump_core():
    """Crash a process in the working directory and look for its memory there; done if the kernel wrote it down."""
    place = Path(tempfile.mkdtemp(dir="."))
    pid = os.fork()
    if pid == 0:
        limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        os.chdir(place)
        os.abort()
    dumped = os.WCOREDUMP(os.waitpid(pid, 0)[1])
    left = [path.name for path in place.iterdir()]
    shutil.rmtree(place)
    if not dumped and not left:
        raise PermissionError("no core was dumped")
    return left
