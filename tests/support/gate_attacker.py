"""Holds so many connections open at once, opens another for each that is closed, and says the same on every one.

    python gate_attacker.py HOST PORT COUNT READ SOURCE < what-to-say

SOURCE is the address that it connects from, READ is `read` or `leave`: whether it takes the answers. It prints `full` when the
first COUNT were opened, steps back as a tool of the CLI does (nice 10), and ends when its input does. Needs the standard
library alone.
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
import time

BURST, PAUSE_SECONDS = 100, 0.01


def main() -> None:
    host, port, count, read = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "read"
    source = sys.argv[5]
    size = int(sys.stdin.buffer.readline())
    said = sys.stdin.buffer.read(size)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), over.set()), daemon=True).start()
    os.nice(10)
    watch = selectors.DefaultSelector()
    opened = 0
    while not over.is_set():
        for key, _ in watch.select(0) if read else ():
            _take(watch, key.fileobj)
        missing = count - len(watch.get_map()) if read else count - opened
        for _ in range(min(BURST, missing)):
            with contextlib.suppress(OSError):
                client = socket.create_connection((host, port), 1, source_address=(source, 0))
                client.setblocking(False)
                watch.register(client, selectors.EVENT_READ)
                client.send(said)
            opened += 1
            if opened == count:
                print("full", flush=True)
        time.sleep(PAUSE_SECONDS)


def _take(watch: selectors.BaseSelector, client: socket.socket) -> None:
    try:
        if client.recv(65536):
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    watch.unregister(client)
    client.close()


if __name__ == "__main__":
    main()
