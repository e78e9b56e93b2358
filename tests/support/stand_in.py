"""Stands in for whatever a stack must not reach: the world, the host, metadata, a model server, a peer.

Needs the standard library alone, so that one file runs in a network namespace, on the host and in any container:

    python stand_in.py --tcp 8080 80 --udp 8080 --dns 53 --proxy 3128 --answer 198.51.100.2

It prints `ready` when it listens at each `--address` (default: all of them). Whatever arrives is remembered and answered
with `the stand-in heard ...`. The proxy is an open one, the way out that egress must not be: CONNECT, absolute URIs and
origin form by `Host`. The resolver knows names that end in `outside.test`, all of them at the address `--answer`. `GET
/heard` tells, as a JSON list, what came so far. With `--until-eof` it ends with its standard input, so that it never
outlives a test.
"""

import argparse
import json
import re
import select
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from typing import Any

HEARD: list[str] = []
"""Everything that arrived, whoever sent it; the proxy's and the resolver's share as well."""
KNOWN = ["outside", "test"]
SECONDS = 10.0
"""How long a silent connection is kept."""


def answered(content: bytes) -> bytes:
    """Remember what came and return the answer to it, which any HTTP client can read, too."""
    if content.startswith(b"GET /heard "):
        body = json.dumps(HEARD).encode()
    else:
        HEARD.append(content.decode(errors="replace"))
        body = b"the stand-in heard " + content[:100]
    return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Stream(socketserver.BaseRequestHandler):
    """One connection: one thing said, one answer."""

    def handle(self) -> None:
        self.request.settimeout(SECONDS)
        if content := self.request.recv(65536):
            self.request.sendall(answered(content))


class Datagram(socketserver.BaseRequestHandler):
    """One datagram and its answer."""

    def handle(self) -> None:
        content, link = self.request
        link.sendto(answered(content), self.client_address)


class Question(socketserver.BaseRequestHandler):
    """One question of the Domain Name System (RFC 1035), answered with one address of type A."""

    def handle(self) -> None:
        content, link = self.request
        labels = list(_labels(content[12:]))
        HEARD.append(".".join(labels))
        end = 12 + sum(len(label) + 1 for label in labels) + 5
        known = labels[-2:] == KNOWN
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.server.answer)  # type: ignore[attr-defined]
        if not known or content[end - 4 : end - 2] != b"\0\1":
            record = b""
        flags = b"\x81\x80" if known else b"\x81\x83"  # no error; no such name
        head = content[:2] + flags + b"\0\1" + (b"\0\1" if record else b"\0\0") + b"\0\0\0\0"
        link.sendto(head + content[12:end] + record, self.client_address)


class Proxy(socketserver.BaseRequestHandler):
    """An open forward proxy: goes wherever the head of the request says."""

    def handle(self) -> None:
        self.request.settimeout(SECONDS)
        head = self.request.recv(65536)
        found = re.match(rb"CONNECT (\S+)|\w+ https?://([^/\s]+)", head) or re.search(rb"(?i)\nhost: *(\S+)()", head)
        if not found:
            return
        host, _, port = (found[1] or found[2]).decode().partition(":")
        if not host.replace(".", "").isdigit():
            host = self.server.answer  # every name is here; no other resolver is asked
        with socket.create_connection((host, int(port or 80)), SECONDS) as target:
            if head.startswith(b"CONNECT "):
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                target.sendall(head)
            self._relay(target)

    def _relay(self, target: socket.socket) -> None:
        ends = {self.request: target, target: self.request}
        while ready := select.select(list(ends), [], [], SECONDS)[0]:
            for end in ready:
                if not (content := end.recv(65536)):
                    return
                ends[end].sendall(content)


def _labels(content: bytes) -> Iterator[str]:
    while content and content[0]:
        yield content[1 : content[0] + 1].decode(errors="replace")
        content = content[content[0] + 1 :]


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away: they are attempts, and end as they like."""


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    answer = ""


def serve(kind: type[socketserver.TCPServer], address: str, port: int, handler: Any, answer: str) -> None:
    """Begin to serve at one address, a link-local one as `fe80::1%eth0`; raises OSError where that cannot be had."""
    family, _, _, _, place = socket.getaddrinfo(address, port, type=kind.socket_type, flags=socket.AI_NUMERICHOST)[0]
    server = type(kind.__name__, (kind,), {"address_family": family, "answer": answer})(place, handler, False)
    if family == socket.AF_INET6:
        server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.server_bind()
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description="Whatever a stack must not reach")
    for name in ("tcp", "udp", "dns", "proxy"):
        parser.add_argument(f"--{name}", type=int, nargs="*", default=[])
    parser.add_argument("--address", nargs="*", default=["0.0.0.0", "::"])
    parser.add_argument("--answer", default="127.0.0.1")
    parser.add_argument("--until-eof", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    kinds = {"tcp": (_Tcp, Stream), "udp": (_Udp, Datagram), "dns": (_Udp, Question), "proxy": (_Tcp, Proxy)}
    for address in options.address:
        for name, (kind, handler) in kinds.items():
            for port in getattr(options, name):
                serve(kind, address, port, handler, options.answer)
    print("ready", flush=True)
    if options.until_eof:
        sys.stdin.read()
    else:
        threading.Event().wait()


if __name__ == "__main__":
    main()
