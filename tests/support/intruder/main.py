"""Runs attempts, each in a process of its own, and prints what became of them."""

import json
import os
import select
import signal
import sys
import time
import traceback

AT_ONCE = 24
SECONDS = 25.0
"""How long one attempt may take; those that wait for an answer give up by themselves, long before."""


def outcome(function, arguments):
    try:
        return f"done: {globals()[function](*arguments)}"
    except OSError as error:
        return f"refused: {type(error).__name__} {error}"
    except BaseException:
        return f"broken: {traceback.format_exc()}"


def begin(words):
    """Fork an attempt; return its process and the end of the pipe that tells how it went."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, outcome(words[0], words[1:])[:1500].encode())
        os._exit(0)
    os.close(writer)
    return pid, reader


def told(pid, reader, end):
    """Wait for an attempt; what it said, or which signal ended it."""
    said = b""
    while select.select([reader], [], [], max(0, end - time.monotonic()))[0]:
        content = os.read(reader, 4096)
        said += content
        if not content:
            break
    else:
        os.kill(pid, signal.SIGKILL)
        said = b"broken: it did not end in time"
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    return said.decode() or f"refused: killed by signal {os.WTERMSIG(status)}"


def attempt(attempts):
    found, names = {}, list(attempts)
    for start in range(0, len(names), AT_ONCE):
        running = {name: begin(attempts[name]) for name in names[start : start + AT_ONCE]}
        end = time.monotonic() + SECONDS
        found |= {name: told(*each, end) for name, each in running.items()}
    return found


if __name__ == "__main__":
    print(json.dumps(attempt(json.loads(sys.argv[1]))))
