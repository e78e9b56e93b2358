"""Many connections of clients without a key, each of which does one thing that holds a server up. Standard library alone.

    python crowd.py KIND --port 8001 [--address 127.0.0.1] [--count 1000] [--rate 2500] [--seconds 60] [--sources 1]

KIND is one of KINDS. As many as `--count` are kept open at a time until the time is over or standard input ends: whichever
the server closes is opened again, `--rate` in a second at most. With `--sources` N they come from N addresses 127.1.0.1,
127.1.0.2, ... Once the first round is through, `open N` is written to standard output, and at the end one JSON object
with counts of what happened.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import os
import resource
import select
import socket
import sys
import time

HOST = b"host: x\r\n"
BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\ncontent-length: 100000\r\n"
)
PART = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"x-slow: "
#: What each kind says at once, and what once a second from then on.
KINDS: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "half": (PART, b""),
    "drip": (PART, b"x"),
    "body": (BODY + b"\r\n{", b""),
    "wrong-key": (BODY + b"authorization: Bearer wrong\r\n\r\n{", b" "),
    "small-body": (BODY.replace(b"100000", b"100") + b"authorization: Bearer wrong\r\n\r\n{", b" "),
    "http10": (BODY.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n{", b" "),
    "garbage": (b"\x00\xff" * 20 + b"\r\n\r\n" * 10, b"\xff"),
    "pipelined": ((b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n") * 50, b""),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), b""),
    "idle-after": (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    "slow-reader": ((b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 20, b""),
    "chunked": (
        BODY.replace(b"content-length: 100000", b"transfer-encoding: chunked") + b"\r\n1\r\n{\r\n",
        b"1\r\nx\r\n",
    ),
}


class Crowd:
    """Keeps so many connections open."""

    def __init__(self, kind: str, place: tuple[str, int], count: int, sources: int, rate: int) -> None:
        self.first, self.then = KINDS[kind]
        self.reads = kind != "slow-reader"
        self.place, self.count, self.sources, self.rate = place, count, sources, rate
        self.begin = time.monotonic()
        self.open: dict[int, socket.socket] = {}
        self.fresh: set[int] = set()
        self.poll = select.epoll()
        self.seen: collections.Counter[str] = collections.Counter()

    def fill(self) -> None:
        """Open what is missing, as far as the rate allows."""
        allowed = int((time.monotonic() - self.begin) * self.rate) - self.seen["tried"]
        if allowed > self.rate // 2:  # what was not needed is not saved up
            self.begin += (allowed - self.rate // 2) / self.rate
        for _ in range(min(allowed, self.rate // 10, self.count - len(self.open))):
            each = socket.socket()
            each.setblocking(False)
            if not self.reads:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            if self.sources > 1:
                number = self.seen["tried"] % self.sources + 1
                each.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT of <linux/in.h>
                each.bind((f"127.1.{number >> 8}.{number & 255}", 0))
            self.seen["tried"] += 1
            if each.connect_ex(self.place) not in (0, errno.EINPROGRESS):
                self.seen["refused"] += 1
                each.close()
                continue
            self.open[each.fileno()] = each
            self.fresh.add(each.fileno())
            self.poll.register(each.fileno(), select.EPOLLOUT | select.EPOLLIN | select.EPOLLRDHUP)

    def turn(self, seconds: float) -> None:
        """Look after those that something happened to."""
        for number, events in self.poll.poll(seconds):
            each = self.open[number]
            if number in self.fresh and events & select.EPOLLOUT:
                self.fresh.discard(number)
                self.seen["connected"] += 1
                self.poll.modify(number, select.EPOLLRDHUP | (select.EPOLLIN if self.reads else 0))
                self.say(each, self.first)
            elif events & select.EPOLLIN and self.hear(each):
                continue
            else:
                self.seen["closed"] += 1
                self.leave(number)

    def hear(self, each: socket.socket) -> bool:
        """Read what came; False at its end."""
        try:
            data = each.recv(4096)
        except OSError:
            return False
        if data.startswith(b"HTTP/1."):
            self.seen[data[9:12].decode("ascii", "replace")] += 1
        return bool(data)

    def say(self, each: socket.socket, data: bytes) -> None:
        try:
            each.send(data)
        except OSError:
            self.seen["unsent"] += 1

    def leave(self, number: int) -> None:
        self.fresh.discard(number)
        self.open.pop(number).close()

    def run(self, seconds: float) -> None:
        """Hold them open for so long."""
        end = time.monotonic() + seconds
        tick = time.monotonic() + 1
        told = False
        while (now := time.monotonic()) < end and not select.select([sys.stdin], [], [], 0)[0]:
            self.fill()
            self.turn(0.01)
            if not told and self.seen["tried"] >= self.count and not self.fresh:
                told = True
                sys.stdout.write(f"open {len(self.open)}\n")
                sys.stdout.flush()
            if now >= tick:
                tick = now + 1
                for number, each in list(self.open.items()) if self.then or not self.reads else ():
                    if number not in self.fresh:
                        self.say(each, self.then) if self.then else self.sip(each)

    def sip(self, each: socket.socket) -> None:
        """Read a byte."""
        try:
            each.recv(1)
        except OSError:
            self.seen["unread"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Connections of clients without a key, each of which holds a server up"
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=2500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sources", type=int, default=1)
    options = parser.parse_args()
    os.nice(19)  # it stands for other machines: the cores of this one are for those who are measured
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(options.kind, (options.address, options.port), options.count, options.sources, options.rate)
    crowd.run(options.seconds)
    sys.stdout.write(json.dumps({**crowd.seen, "open": len(crowd.open)}) + "\n")


if __name__ == "__main__":
    main()
