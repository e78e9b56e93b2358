"""A server that speaks the OpenAI wire, for tests: standard library only, runs on its own.

    python openai_upstream.py --host 127.0.0.1 --port 0

Prints `listening on HOST:PORT`. It answers `echo: <last user text>` under the model name it was asked for. A request
may hold a field `x_double` that makes it misbehave: {"status": 429, "retry_after": 7, "message": "slow down",
"html": true, "delay": seconds before the head, "gap": seconds between chunks, "chunks": how many, "cut": chunks until
the connection breaks}. GET /count counts chat requests, GET /last shows the last one.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Seen:
    """What the server has seen so far."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts = {"requests": 0, "streams": 0, "abandoned": 0}
        self.last: dict[str, Any] = {}

    def add(self, name: str, amount: int = 1) -> None:
        with self.lock:
            self.counts[name] += amount


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: Seen

    def setup(self) -> None:
        super().setup()
        self.wfile = self.connection.makefile("wb", buffering=65536)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        known = {"/count": self.seen.counts, "/last": self.seen.last, "/health/live": {"status": "live"}}
        self._json(200 if self.path in known else 404, known.get(self.path, {"error": {"message": "no such path"}}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        if not self.path.endswith("/chat/completions"):
            self._json(404, {"error": {"message": "no such path"}})
            return
        self.seen.add("requests")
        self.seen.last = {"body": body, "headers": {name.lower(): value for name, value in self.headers.items()}}
        wish = body.get("x_double") or {}
        time.sleep(wish.get("delay", 0))
        if wish.get("status", 200) != 200:
            self._fail(wish)
        elif body.get("stream"):
            self._stream(body, wish)
        else:
            self._plain(body, wish)

    def _fail(self, wish: dict[str, Any]) -> None:
        extra = {"retry-after": str(wish["retry_after"])} if "retry_after" in wish else {}
        if wish.get("html"):
            self._send(wish["status"], b"<html>bad</html>", "text/html", extra)
            return
        error = {"message": wish.get("message", "as you wish"), "type": "wished_error", "param": None, "code": "wished"}
        self._send(wish["status"], json.dumps({"error": error}).encode(), "application/json", extra)

    def _plain(self, body: dict[str, Any], wish: dict[str, Any]) -> None:
        text = f"echo: {last_text(body)}"
        document = {
            "id": "chatcmpl-double",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
        if "cut" in wish:
            self._head(200, "application/json", {"content-length": "100000"})
            self._break()
            return
        self._json(200, document)

    def _stream(self, body: dict[str, Any], wish: dict[str, Any]) -> None:
        words = f"echo: {last_text(body)}".split(" ")
        count = wish.get("chunks", len(words))
        self.seen.add("streams")
        try:
            self._head(200, "text/event-stream", {"transfer-encoding": "chunked"})
            for number in range(count):
                if number == wish.get("cut"):
                    self._break()
                    return
                text = words[number] + " " if number < len(words) else f"{number} "
                self._event(json.dumps(chunk(body["model"], {"content": text}, None)))
                time.sleep(wish.get("gap", 0))
            self._event(json.dumps(chunk(body["model"], {}, "stop")))
            self._event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except OSError:
            self.seen.add("abandoned")
            self.close_connection = True
        finally:
            self.seen.add("streams", -1)

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.flush()

    def _break(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def _json(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document).encode(), "application/json", {})

    def _send(self, status: int, body: bytes, kind: str, extra: dict[str, str]) -> None:
        self._head(status, kind, {"content-length": str(len(body)), **extra})
        self.wfile.write(body)
        self.wfile.flush()

    def _head(self, status: int, kind: str, extra: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()


def last_text(body: dict[str, Any]) -> str:
    """Return the text of the last user message."""
    for message in reversed(body.get("messages", [])):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            return " ".join(part.get("text", "") for part in content or [])
    return ""


def chunk(model: str, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    """Return one streamed piece of an answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "chatcmpl-double",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [choice],
    }


class Server(ThreadingHTTPServer):
    """Threads that do not outlive it."""

    daemon_threads = True
    request_queue_size = 512


def serve(host: str, port: int) -> Server:
    """Return a bound server, yet to be started."""
    return Server((host, port), type("Bound", (Handler,), {"seen": Seen()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    server = serve(given.host, given.port)
    print(f"listening on {server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
