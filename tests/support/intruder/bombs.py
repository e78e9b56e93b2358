"""Takes as much as it gets of processes and of memory. Done means that nobody drew a line."""

import contextlib
import mmap
import os
import signal
import time

STEP = 64 << 20
HELD_SECONDS = 2
"""A bound is looked at from time to time; whoever is back below it in a moment has hurt nobody."""


def processes(number):
    """Start so many processes that only wait; all of them are ended before this returns."""
    children = []
    try:
        for _ in range(int(number)):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        raise OSError(f"{error} after {len(children)}") from error
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
    return len(children)


def memory(megabytes):
    """Fill so much memory and keep it a while; who goes too far is killed."""
    filled = fill(megabytes)
    time.sleep(HELD_SECONDS)
    return len(filled)


def fill(megabytes):
    held = []
    while len(held) * STEP < int(megabytes) << 20:
        held.append(mmap.mmap(-1, STEP, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
    return held


def refill(megabytes, seconds):
    """Fill the memory again and again, whoever is killed for it."""
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            fill(megabytes)
            os._exit(0)
        os.waitpid(pid, 0)


def explode(seconds):
    """Fork without end in every process, and never give way: what a fork bomb does."""
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            os.fork()
