"""A double of Anthropic's Messages API: enough of the wire, streaming included, for the real Claude CLI.

Needs the standard library alone and imports nothing of the project, so that one file runs in any container:

    python messages_api.py --host 127.0.0.1 --port 9100

It prints one line `listening on HOST:PORT` when it accepts connections (port 0 takes a free one). The answer is
`echo: ` and the last text block of the last user message, in several text deltas with small gaps.

A marker in that text chooses a misbehaviour, for a test that needs a provider to fail in one certain way:

    [[status=429 retry-after=7]]   an error with this status, and this header when it is named
    [[gap=0.2]]                    seconds between two text deltas (default 0.02)
    [[slow=3]]                     seconds before the first byte
    [[cut]]                        the connection closes in the middle of the stream
    [[hang]]                       the stream begins and then says nothing more for an hour
    [[error]]                      an `error` event in the middle of the stream
    [[say=TEXT]]                   answers TEXT instead of the echo
    [[length]]                     stop_reason `max_tokens`
    [[tool=NAME {"a": "b"}]]       says `using it`, uses the tool NAME with this input, then answers with its result

`GET /count` tells how many messages were asked for, `GET /last` what the last one was (the names of its headers, never
a credential's value), `POST /reset` forgets both.
"""

import argparse
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

MARKER = re.compile(r"\[\[([^\[\]]+)\]\]")
PIECES = 5
CREDENTIAL_HEADERS = ("x-api-key", "authorization")
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Seen:
    """What was asked of the double so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.count = 0
            self.last: dict[str, Any] = {}

    def add(self, request: dict[str, Any]) -> None:
        with self._lock:
            self.count += 1
            self.last = request


def last_user_text(body: dict[str, Any]) -> str:
    """Return the last text block of the last user message: the CLI puts reminders of its own before it."""
    for message in reversed(body.get("messages", [])):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str):
            return content
        texts = [block.get("text", "") for block in content or [] if block.get("type") == "text"]
        if texts:
            return str(texts[-1])
    return ""


def markers(text: str) -> dict[str, str]:
    """Read `[[a=1 b=2]]` and `[[say=any words]]` out of a text."""
    found: dict[str, str] = {}
    for group in MARKER.findall(text):
        parts = [group] if group.startswith(("say=", "tool=")) else group.split()
        for part in parts:
            name, _, value = part.partition("=")
            found[name] = value
    return found


def split_into(text: str, pieces: int) -> list[str]:
    """Cut a text into at most so many pieces, none empty."""
    size = max(1, -(-len(text) // pieces))
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def words(value: object) -> int:
    """Return a plausible token count: four characters to a token, at least one."""
    return max(1, len(json.dumps(value)) // 4)


def tool_result(body: dict[str, Any]) -> str | None:
    """Return what the tool said, if the last message is its result."""
    content = body["messages"][-1].get("content") if body.get("messages") else None
    for block in content if isinstance(content, list) else []:
        if block.get("type") == "tool_result":
            told = block.get("content")
            if isinstance(told, list):
                return "".join(part.get("text", "") for part in told)
            return str(told)
    return None


def tool_events(body: dict[str, Any], wanted: str) -> Iterator[dict[str, Any]]:
    """The events of a message that uses a tool."""
    name, _, given = wanted.partition(" ")
    first, *text, _, _ = stream_events(body, "using it", "tool_use")
    yield first
    yield from text
    block = {"type": "tool_use", "id": f"toolu_{time.time_ns()}", "name": name, "input": {}}
    yield {"type": "content_block_start", "index": 1, "content_block": block}
    delta = {"type": "input_json_delta", "partial_json": given or "{}"}
    yield {"type": "content_block_delta", "index": 1, "delta": delta}
    yield {"type": "content_block_stop", "index": 1}
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


def stream_events(body: dict[str, Any], answer: str, stop_reason: str) -> Iterator[dict[str, Any]]:
    """The events of one streamed message, in the order that the Messages API documents."""
    usage = {"input_tokens": words(body.get("messages", [])), "output_tokens": 1}
    message = {"id": f"msg_{time.time_ns()}", "type": "message", "role": "assistant", "model": body.get("model", "")}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for piece in split_into(answer, PIECES):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": words(answer)}}
    yield {"type": "message_stop"}


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the tests read stdout for the listening line."""

    def do_HEAD(self) -> None:
        self._send(200, {})

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/count":
            self._send(200, {"count": self.server.seen.count})
        elif path == "/last":
            self._send(200, self.server.seen.last)
        elif path in ("/", "/health"):
            self._send(200, {"status": "ok"})
        else:
            self._fail(404, f"no such path: {path}")

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        raw = self.rfile.read(int(self.headers.get("content-length", "0")))
        if path == "/reset":
            self.server.seen.reset()
            self._send(200, {})
            return
        try:
            body = json.loads(raw)
        except ValueError as error:
            self._fail(400, f"the body is no JSON: {error}")
            return
        if path == "/v1/messages/count_tokens":
            self._send(200, {"input_tokens": words(body.get("messages", []))})
        elif path == "/v1/messages":
            self._message(body)
        else:
            self._fail(404, f"no such path: {path}")

    def _message(self, body: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        credentials = [name for name in CREDENTIAL_HEADERS if headers.pop(name, None)]
        self.server.seen.add({"headers": headers, "credentials": credentials, "body": body})
        text = last_user_text(body)
        asked = markers(text)
        time.sleep(float(asked.get("slow", "0")))
        if "status" in asked:
            self._fail(int(asked["status"]), "asked to fail", asked.get("retry-after"))
            return
        result = tool_result(body)
        if "tool" in asked and result is None:
            self._stream(tool_events(body, asked["tool"]), {})
            return
        answer = asked.get("say") or (f"echo: {text}" if result is None else f"the tool said: {result}")
        stop_reason = "max_tokens" if "length" in asked else "end_turn"
        if body.get("stream"):
            self._stream(stream_events(body, answer, stop_reason), asked)
        else:
            self._send(200, self._whole(body, answer, stop_reason))

    @staticmethod
    def _whole(body: dict[str, Any], answer: str, stop_reason: str) -> dict[str, Any]:
        message = next(stream_events(body, answer, stop_reason))["message"]
        usage = {**message["usage"], "output_tokens": words(answer)}
        content = [{"type": "text", "text": answer}]
        return {**message, "content": content, "stop_reason": stop_reason, "usage": usage}

    def _stream(self, events: Iterator[dict[str, Any]], asked: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("cache-control", "no-cache")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        deltas = 0
        try:
            for event in events:
                if event["type"] == "content_block_delta":
                    time.sleep(float(asked.get("gap", "0.02")))
                    deltas += 1
                self._event(event)
                if deltas == 2 and self._misbehave(asked):
                    return
        except (BrokenPipeError, ConnectionResetError):
            return

    def _misbehave(self, asked: dict[str, str]) -> bool:
        if "hang" in asked:
            time.sleep(3600)
        if "error" in asked:
            self._event({"type": "error", "error": {"type": "overloaded_error", "message": "asked to fail"}})
        if "cut" in asked:
            self.connection.shutdown(socket.SHUT_RDWR)
        return "error" in asked or "cut" in asked

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _fail(self, status: int, message: str, retry_after: str | None = None) -> None:
        kind = ERROR_TYPES.get(status, "api_error")
        self._send(status, {"type": "error", "error": {"type": kind, "message": message}}, retry_after)

    def _send(self, status: int, document: dict[str, Any], retry_after: str | None = None) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        if retry_after:
            self.send_header("retry-after", retry_after)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """The double, one thread to a connection."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.seen = Seen()
        super().__init__((host, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a client that went away: tests do that on purpose."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description="A double of Anthropic's Messages API")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = Server(options.host, options.port)
    # As PID 1 of a container the default action of SIGTERM would be to ignore it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on {options.host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
