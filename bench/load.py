"""The load of bench/gateway.py: a client on raw sockets that costs little, so that what is measured is the server.

Every answer's status and length are checked; an answer that is not 200 ends the benchmark with what the server said.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
END_OF_CHUNKS = b"\r\n0\r\n\r\n"
GIVE_UP_SECONDS = 30.0
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant that answers in one paragraph."},
    {"role": "user", "content": "What does a sentence look like that holds every letter of the alphabet? " * 3},
]


class Refused(Exception):
    """The server answered something else than 200, or hung up."""


@dataclass(frozen=True)
class Target:
    """Where requests go: a port of 127.0.0.1, and the bearer key and model that it wants."""

    port: int
    model: str = "bench"
    key: str = "none"

    def request(self, *, stream: bool = False) -> bytes:
        """A chat request as it goes over the wire."""
        body = json.dumps({"model": self.model, "messages": MESSAGES, "temperature": 0.7, "stream": stream})
        lines = (
            "POST /v1/chat/completions HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            f"authorization: Bearer {self.key}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        )
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request under way.

    `answered(first, last)` is called after each answer, with the times at which its body began and ended.
    """

    transport: asyncio.Transport

    def __init__(self, answered: Callable[[float, float], None], failed: Callable[[Exception], None]) -> None:
        self._answered = answered
        self._failed = failed
        self._closing = False
        self._reset()

    def _reset(self) -> None:
        self._data = b""
        self._first = 0.0
        self._end = -1  # length of the whole answer; 0 when it is chunked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> None:
        self.transport.write(request)

    def close(self) -> None:
        self._closing = True
        self.transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._closing:
            self._failed(Refused(f"the server hung up after {self._data!r}"))

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        if self._end < 0 and not self._head():
            return
        if not self._first:
            self._first = time.perf_counter()
        if len(self._data) == self._end or (not self._end and self._data.endswith(END_OF_CHUNKS)):
            first = self._first
            self._reset()
            self._answered(first, time.perf_counter())

    def _head(self) -> bool:
        """Read the head; whether it and the first bytes of the body are here."""
        at = self._data.find(b"\r\n\r\n") + 4
        if at < 4 or len(self._data) == at:
            return False
        if not self._data.startswith(b"HTTP/1.1 200 "):
            self._failed(Refused(self._data.decode(errors="replace")))
            return False
        length = LENGTH.search(self._data, 0, at)
        self._end = at + int(length[1]) if length else 0
        return True


async def throughput(target: Target, in_flight: int, seconds: float, requests: int = 0) -> tuple[int, float]:
    """Keep `in_flight` requests under way for `seconds` or `requests`, what ends first; return their count and seconds."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    request = target.request()
    begin = end = 0.0
    count = 0

    def connection() -> Connection:
        def answered(_first: float, last: float) -> None:
            nonlocal count
            count += 1
            if last < end and (not requests or count < requests):
                made.ask(request)
            elif not done.done():
                done.set_result(None)

        made = Connection(answered, _fail(done))
        return made

    with quiet():
        opened = [await _open(target, connection) for _ in range(in_flight)]
        begin = time.perf_counter()
        end = begin + seconds
        for each in opened:
            each.ask(request)
        try:
            await asyncio.wait_for(done, seconds + GIVE_UP_SECONDS)
        finally:
            for each in opened:
                each.close()
    return count, time.perf_counter() - begin


async def one_at_a_time(targets: list[Target], seconds: float, batch: int, *, stream: bool) -> list[list[float]]:
    """Seconds to the first byte of a stream's body, or to a whole answer, for each target.

    The targets take turns after every `batch` requests, so that a noisy neighbour hits all of them alike.
    """
    samples: list[list[float]] = [[] for _ in targets]
    lines = [_Line(target, stream) for target in targets]
    try:
        for line in lines:
            await line.open()
        with quiet():
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                for line, into in zip(lines, samples, strict=True):
                    into.extend([await line.ask() for _ in range(batch)])
    finally:
        for line in lines:
            line.close()
    return samples


class _Line:
    """A connection whose answers are awaited one by one."""

    def __init__(self, target: Target, stream: bool) -> None:
        self._target = target
        self._stream = stream
        self._request = target.request(stream=stream)
        self._connection: Connection | None = None

    async def open(self) -> None:
        self._connection = await _open(self._target, lambda: Connection(self._answered, self._refused))

    async def ask(self) -> float:
        assert self._connection
        self._answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        begin = time.perf_counter()
        self._connection.ask(self._request)
        return await asyncio.wait_for(self._answer, GIVE_UP_SECONDS) - begin

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def _answered(self, first: float, last: float) -> None:
        self._answer.set_result(first if self._stream else last)

    def _refused(self, error: Exception) -> None:
        _fail(self._answer)(error)


async def _open(target: Target, factory: Callable[[], Connection]) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", target.port)
    return connection


def _fail(future: asyncio.Future[None] | asyncio.Future[float]) -> Callable[[Exception], None]:
    def failed(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    return failed


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection of ours within a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
