"""An upstream that answers with the very request it got: its line, its headers in order, the size of its body.

Needs the standard library alone, so that one file runs in any container. Fields of a JSON body choose a behaviour:

    {"chunks": 5, "gap": 0.2}   server-sent events, so many, with a gap before each (seconds)
    {"close": true}             the connection ends without an answer

`served` in an answer counts the requests so far; GET /count tells it without counting. --tls CERTIFICATE KEY speaks TLS.
"""

import argparse
import itertools
import json
import signal
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    numbers = itertools.count(1)
    served = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        if self.path == "/count":
            self._json({"served": Handler.served})
        else:
            self._answer()

    def do_POST(self) -> None:
        self._answer()

    do_PUT = do_DELETE = do_OPTIONS = do_HEAD = do_POST

    def _answer(self) -> None:
        Handler.served = next(Handler.numbers)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        if "close" in asked:
            self.close_connection = True
        elif "chunks" in asked:
            self._stream(int(asked["chunks"]), float(asked.get("gap", 0)))
        else:
            headers = [[name.lower(), value] for name, value in self.headers.items()]
            self._json({"line": self.requestline, "headers": headers, "bytes": len(body), "served": Handler.served})

    def _stream(self, chunks: int, gap: float) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for number in range(chunks):
            time.sleep(gap)
            self.wfile.write(f"data: {number}\n\n".encode())

    def _json(self, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("request-id", "req_echo")
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    parser = argparse.ArgumentParser(description="An upstream that answers with the request it got")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    options = parser.parse_args()
    server = ThreadingHTTPServer(("0.0.0.0", options.port), Handler)
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
