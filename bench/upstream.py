"""The upstream double of bench/gateway.py: canned answers on the OpenAI wire, as fast as Python can write them.

    python bench/upstream.py PORT

A request that asks for a stream gets eight events, any other one completion; nothing is parsed that is not needed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

COMMON = {"id": "chatcmpl-bench", "created": 1700000000, "model": "bench"}
TEXT = "The quick brown fox jumps over the lazy dog. " * 8
EVENTS = 8


def completion() -> bytes:
    """The whole answer: about 600 bytes, with token usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 42, "completion_tokens": 80, "total_tokens": 122}
    body = json.dumps({**COMMON, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    return head("application/json", f"content-length: {len(body)}") + body


def events() -> tuple[bytes, bytes]:
    """A stream as two writes: head and first event, then all the rest; so the first byte is told from the last."""
    chunks = [event({"role": "assistant", "content": TEXT[:45]})]
    chunks += [event({"content": TEXT[:45]}) for _ in range(EVENTS - 2)]
    chunks += [event({}, "stop"), chunk(b"data: [DONE]\n\n"), chunk(b"")]
    return head("text/event-stream; charset=utf-8", "transfer-encoding: chunked") + chunks[0], b"".join(chunks[1:])


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    document = {**COMMON, "object": "chat.completion.chunk", "choices": [choice]}
    return chunk(b"data: " + json.dumps(document).encode() + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def head(kind: str, length: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{length}\r\n\r\n".encode()


COMPLETION = completion()
FIRST, REST = events()


class Connection(asyncio.Protocol):
    """One kept-alive connection."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while request := self._next():
            # The openai client writes `"stream":true`, others put a blank in between.
            if b'"stream":true' in request or b'"stream": true' in request:
                self.transport.write(FIRST)
                self._loop.call_soon(self.transport.write, REST)
            else:
                self.transport.write(COMPLETION)

    def _next(self) -> bytes:
        """Take one whole request off the buffer; empty when there is none yet."""
        top, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return b""
        length = 0
        for line in top.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return b""
        self._buffer = rest[length:]
        return rest[:length] or b"{}"


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
