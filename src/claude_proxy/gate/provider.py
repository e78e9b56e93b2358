"""Calls to the provider, through egress: one connection for each call in flight, kept for the next one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import httptools

from claude_proxy.gate.connection import Connection
from claude_proxy.gate.refusal import Refusal

CONNECT_SECONDS = 10.0
AGAIN_SECONDS, AGAIN_FOR_SECONDS = 0.1, 2.0
"""Between two attempts to connect, and for how long they go on: an egress that starts again is back in about a second."""
SILENCE_SECONDS = 620.0
"""Longer than egress waits, so that its own error comes first."""
KEEP_SECONDS = 20.0
"""How long an idle connection is kept; egress closes it after 60 s, so none is used that it is about to close."""
KEPT = 32
LARGEST_HEAD = 64 * 1024
RETRY = {"retry-after": "1"}

Headers = Sequence[tuple[bytes, bytes]]


class Unreachable(Refusal):
    """No connection could be made: nothing was sent."""

    def __init__(self) -> None:
        message = "the gate cannot reach the egress gateway; try again"
        super().__init__(503, "unreachable", message, "api_error", RETRY)


class Provider:
    """Where the calls go: `base_url` is egress's, or any other that speaks the Messages API."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._place = parts.netloc.rpartition("@")[2].encode()
        self._prefix = parts.path.rstrip("/").encode()
        self._idle: list[tuple[float, Connection]] = []

    async def call(self, target: bytes, headers: Headers, body: bytes) -> Answer:
        """Send a request and return its answer, of which the head is here; raises Refusal 502, 503 or 504.

        It is never sent twice. Close the answer in any case.
        """
        connection = await self._connection()
        lines = [b"POST %b%b HTTP/1.1" % (self._prefix, target), b"host: " + self._place]
        # What is counted has to be read: no compression on this way, which is a container's network.
        lines += [b"%b: %b" % each for each in headers] + [b"accept-encoding: identity"]
        lines += [b"content-type: application/json", b"content-length: %d" % len(body), b"", b""]
        answer = Answer(self, connection)
        try:
            await connection.write(b"\r\n".join(lines))
            await connection.write(body)
            await answer.head()
        except BaseException as error:
            answer.close()
            if isinstance(error, ConnectionError):
                raise _broken() from error
            raise
        return answer

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose answer is whole."""
        if connection.idle and len(self._idle) < KEPT:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.transport.abort()

    async def _connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        while self._idle:
            since, connection = self._idle.pop()
            if connection.idle and loop.time() - since < KEEP_SECONDS:
                return connection
            connection.transport.abort()
        end = loop.time() + AGAIN_FOR_SECONDS
        while True:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, made = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
                    return made
            except (OSError, TimeoutError) as error:
                if loop.time() > end:
                    raise Unreachable from error
            await asyncio.sleep(AGAIN_SECONDS)


class Answer:
    """One answer of the provider."""

    def __init__(self, provider: Provider, connection: Connection) -> None:
        self._provider = provider
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._begun = self._whole = False
        self._size = 0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def head(self) -> None:
        """Wait for the head; raises Gone, and Refusal 502 or 504."""
        while not self._begun:
            await self._read()
        self.status = self._parser.get_status_code()

    def header(self, name: bytes) -> bytes:
        """Return a header field, empty where there is none."""
        return next((value for each, value in self.headers if each == name), b"")

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body's parts as they come; raises Refusal 502 where it breaks off."""
        while True:
            if self._parts:
                parts, self._parts = self._parts, []
                yield b"".join(parts)
            elif self._whole:
                return
            else:
                await self._read()

    def close(self) -> None:
        """Give the connection back, or cut it off where something of the answer may still come."""
        connection, self._connection = self._connection, None  # type: ignore[assignment]  # closed once
        if connection is None:
            return
        if self._whole and self._parser.should_keep_alive():
            self._provider.keep(connection)
        else:
            connection.transport.abort()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                data = await self._connection.some()
        except TimeoutError as error:
            raise Refusal(
                504, "silent", f"the provider sent nothing for {SILENCE_SECONDS:g} s", headers=RETRY
            ) from error
        if not data:
            self._end()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise _broken() from error
        self._size += 0 if self._begun else len(data)
        if self._size > LARGEST_HEAD:
            raise _broken()

    def _end(self) -> None:
        """Take the end of the connection: the end of an answer that told no length, or the break of any other."""
        told = self.header(b"content-length") or self.header(b"transfer-encoding")
        if not self._begun or told:
            raise _broken()
        self._whole = True

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the end of the head; an interim one, such as 100, is passed over."""
        if self._parser.get_status_code() < 200:
            self.headers.clear()
        else:
            self._begun = True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(bytes(body))

    def on_message_complete(self) -> None:
        """Take the end."""
        self._whole = self._begun


def _broken() -> Refusal:
    return Refusal(502, "broken", "the provider closed the connection or sent no valid answer", headers=RETRY)
