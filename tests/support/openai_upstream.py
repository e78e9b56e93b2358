"""A server that speaks the OpenAI wire, for tests: standard library only, runs on its own.

    python openai_upstream.py --host 127.0.0.1 --port 0

Prints `listening on HOST:PORT`. It answers `echo: <last user text>` under the model name it was asked for. A request
may hold a field `x_double` that makes it misbehave: {"status": 429, "retry_after": 7, "message": "slow down",
"html": true, "malformed": true, "delay": seconds before the head, "gap": seconds between chunks, "chunks": how many,
"size": bytes of the answer, or of each chunk, "hold": "x" (waits for GET /release/x before the head, or before the chunk
number "held"),
"cut": chunks until the connection breaks, "name": "x", "first": 2 (only the first two requests of that name misbehave),
"model": "m" (only under that name), "refuse": a field with which the request is refused, "silent": true (tells no usage)};
{"tool": true} makes it call the first of the request's `tools`.
GET /count counts requests, GET /last shows the last one, GET /named how many came by each name.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOLD_SECONDS = 60.0
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Seen:
    """What the server has seen so far."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts = {"requests": 0, "streams": 0, "abandoned": 0}
        self.last: dict[str, Any] = {}
        self.named: dict[str, int] = {}
        self.released: dict[str, threading.Event] = {}

    def hold(self, name: str) -> threading.Event:
        with self.lock:
            return self.released.setdefault(name, threading.Event())

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
        if self.path.startswith("/release/"):
            self.seen.hold(self.path.rpartition("/")[2]).set()
            self._json(200, {})
            return
        known = {
            "/count": self.seen.counts,
            "/last": self.seen.last,
            "/named": self.seen.named,
            "/health/live": {"status": "live"},
        }
        self._json(200 if self.path in known else 404, known.get(self.path, {"error": {"message": "no such path"}}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        if not self.path.endswith(("/chat/completions", "/embeddings")):
            self._json(404, {"error": {"message": "no such path"}})
            return
        self.seen.add("requests")
        self.seen.last = {"body": body, "headers": {name.lower(): value for name, value in self.headers.items()}}
        wish = self._wish(body)
        time.sleep(wish.get("delay", 0))
        if "hold" in wish and "held" not in wish:
            self.seen.hold(wish["hold"]).wait(HOLD_SECONDS)
        if wish.get("status", 200) != 200:
            self._fail(wish)
        elif wish.get("refuse") in body:
            self._fail({"status": 400, "message": f"Unrecognized request argument supplied: {wish['refuse']}"})
        elif wish.get("malformed"):
            self._send(200, b'{"choices": [', "application/json", {})
        elif self.path.endswith("/embeddings"):
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            sizes = [float(len(text)) if isinstance(text, str | list) else 1.0 for text in texts]
            data = [{"object": "embedding", "index": n, "embedding": [size]} for n, size in enumerate(sizes)]
            usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
            self._json(200, {"object": "list", "model": body["model"], "data": data, "usage": usage})
        elif body.get("stream"):
            self._stream(body, wish)
        else:
            self._plain(body, wish)

    def _wish(self, body: dict[str, Any]) -> dict[str, Any]:
        wish: dict[str, Any] = body.get("x_double") or {}
        if not isinstance(wish, dict):
            return {}
        if wish.get("model", body["model"]) != body["model"]:
            return {}
        if "name" in wish:
            with self.seen.lock:
                count = self.seen.named[wish["name"]] = self.seen.named.get(wish["name"], 0) + 1
            if count > wish.get("first", count):
                return {}
        return wish

    def _fail(self, wish: dict[str, Any]) -> None:
        extra = {"retry-after": str(wish["retry_after"])} if "retry_after" in wish else {}
        if wish.get("html"):
            self._send(wish["status"], b"<html>bad</html>", "text/html", extra)
            return
        error = {"message": wish.get("message", "as you wish"), "type": "wished_error", "param": None, "code": "wished"}
        self._send(wish["status"], json.dumps({"error": error}).encode(), "application/json", extra)

    def _plain(self, body: dict[str, Any], wish: dict[str, Any]) -> None:
        text = f"echo: {last_text(body)}" + "x" * wish.get("size", 0)
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        if wish.get("tool"):
            message = {"role": "assistant", "content": None, "tool_calls": [tool_call(body)]}
            choice |= {"message": message, "finish_reason": "tool_calls"}
        document = {
            "id": "chatcmpl-double",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": USAGE,
        }
        if "cut" in wish:
            self._head(200, "application/json", {"content-length": "100000"})
            self._break()
            return
        self._json(200, document)

    def _stream(self, body: dict[str, Any], wish: dict[str, Any]) -> None:
        words = f"echo: {last_text(body)}".split(" ")
        count = wish.get("chunks", 0 if wish.get("tool") else len(words))
        options = body.get("stream_options")
        counted = isinstance(options, dict) and options.get("include_usage") and not wish.get("silent")
        # As OpenAI has it: every chunk but the last one says that its usage is null.
        more: dict[str, Any] = {"usage": None} if counted else {}
        self.seen.add("streams")
        try:
            self._head(200, "text/event-stream", {"transfer-encoding": "chunked"})
            for number in range(count):
                if number == wish.get("cut"):
                    self._break()
                    return
                if number == wish.get("held"):
                    self.seen.hold(wish["hold"]).wait(HOLD_SECONDS)
                text = words[number] + " " if number < len(words) else f"{number} "
                text += "x" * wish.get("size", 0)
                self._event(json.dumps(chunk(body["model"], {"content": text}, None) | more))
                time.sleep(wish.get("gap", 0))
            if wish.get("tool"):
                for delta in tool_deltas(body):
                    self._event(json.dumps(chunk(body["model"], delta, None) | more))
            self._event(json.dumps(chunk(body["model"], {}, "tool_calls" if wish.get("tool") else "stop") | more))
            if counted:
                self._event(json.dumps({**chunk(body["model"], {}, None), "choices": [], "usage": USAGE}))
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
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, list) else []
            return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return ""


def tool_call(body: dict[str, Any]) -> dict[str, Any]:
    """Return a call of the request's first tool with what the user said."""
    function = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps({"said": last_text(body)})}
    return {"id": "call-1", "type": "function", "function": function}


def tool_deltas(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the same call in pieces, the arguments letter by letter."""
    call = tool_call(body)
    arguments = call["function"]["arguments"]
    first = {**call, "index": 0, "function": {**call["function"], "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": letter}} for letter in arguments]
    return [{"tool_calls": [each]} for each in (first, *rest)]


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
