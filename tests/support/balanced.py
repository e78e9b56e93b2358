"""An instance behind the balancer that does what a test wishes. Needs the standard library alone, for any container.

    python balanced.py --name one [--port 8001 | --socket PATH] [--key "Bearer good"]

With --key, paths below /v1/ are for requests whose header Authorization begins like that, until PUT /revoked/NAME for one.

It answers every request with what it saw of it. A header `x-wish` with a JSON object chooses a behaviour:

    {"chunks": 5, "gap": 0.2}   server-sent events, so many, with a gap before each (seconds)
    {"wait": 5}                 seconds before the answer
    {"close": true}             the connection ends without an answer

GET /health/accepting answers with a status that PUT /accepting/404 sets. GET /seen tells, without being counted itself:
`requests` (heads), `open`, `abandoned` (the client left before the end) and `received` (bytes of the latest body so far).
"""

import argparse
import json
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


class Seen:
    """What every connection's thread adds to."""

    lock = threading.Lock()
    accepting = 200
    key = ""
    revoked: ClassVar[set[str]] = set()
    counts = {"requests": 0, "open": 0, "abandoned": 0, "received": 0}  # noqa: RUF012

    @classmethod
    def add(cls, name: str, amount: int = 1) -> None:
        with cls.lock:
            cls.counts[name] += amount


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False  # a Unix socket has no such option
    name = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def address_string(self) -> str:
        return "-"

    def do_GET(self) -> None:
        if self.path == "/health/accepting":
            self._json({}, Seen.accepting)
        elif self.path == "/seen":
            self._json(Seen.counts)
        else:
            self._answer()

    def do_PUT(self) -> None:
        last = self.path.rpartition("/")[2]
        if self.path.startswith("/revoked/"):
            Seen.revoked.add(f"Bearer {last}")
        else:
            Seen.accepting = int(last)
        self._json({})

    def do_POST(self) -> None:
        self._answer()

    do_OPTIONS = do_HEAD = do_DELETE = do_CONNECT = do_POST

    def _answer(self) -> None:
        shown = self.headers.get("authorization", "")
        lacks_key = not shown.startswith(Seen.key) or shown in Seen.revoked
        if Seen.key and self.path.startswith("/v1/") and self.command != "OPTIONS" and lacks_key:
            self.close_connection = True  # as the API does, without a look at the body
            self._json({}, 401)
            return
        Seen.add("requests")
        Seen.add("open")
        try:
            size = self._body()
            self._fulfil(json.loads(self.headers.get("x-wish", "{}")), size)
        except OSError:
            Seen.add("abandoned")
            self.close_connection = True
        finally:
            Seen.add("open", -1)

    def _body(self) -> int:
        with Seen.lock:
            Seen.counts["received"] = 0
        if self.headers.get("transfer-encoding") == "chunked":
            size = 0
            while length := int(self.rfile.readline(), 16):
                size += self._read(length)
                self.rfile.readline()
            self.rfile.readline()
            return size
        return self._read(int(self.headers.get("content-length") or 0))

    def _read(self, length: int) -> int:
        left = length
        while left:
            piece = self.rfile.read1(min(left, 65536))
            if not piece:
                raise ConnectionResetError
            left -= len(piece)
            Seen.add("received", len(piece))
        return length

    def _fulfil(self, wish: dict[str, Any], size: int) -> None:
        self._pause(wish.get("wait", 0))
        if "close" in wish:
            self.close_connection = True
        elif "chunks" in wish:
            self._head(200, "text/event-stream", "connection", "close")
            for number in range(wish["chunks"]):
                self._pause(wish.get("gap", 0))
                self.wfile.write(f"data: {number}\n\n".encode())
        else:
            headers = [[name.lower(), value] for name, value in self.headers.items()]
            self._json({"instance": self.name, "line": self.requestline, "headers": headers, "bytes": size})

    def _pause(self, seconds: float) -> None:
        """Wait, unless the client leaves."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.connection], [], [], left)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError

    def _head(self, status: int, content_type: str, *more: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header(*more)
        self.end_headers()

    def _json(self, document: Any, status: int = 200) -> None:
        content = json.dumps(document).encode()
        self._head(status, "application/json", "content-length", str(len(content)))
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class LocalServer(Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up a host name.
        socketserver.TCPServer.server_bind(self)
        Path(str(self.server_address)).chmod(0o666)


def main() -> None:
    parser = argparse.ArgumentParser(description="An instance behind the balancer that does what a test wishes")
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--socket")
    parser.add_argument("--key", default="")
    options = parser.parse_args()
    Handler.name = options.name
    Seen.key = options.key
    if options.socket:
        server: Server = LocalServer(options.socket, Handler)  # a path, as the family has it
    else:
        server = Server(("0.0.0.0", options.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
