"""An upstream's answer: a whole document, or a stream of which the first bytes are here."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

import aiohttp
import orjson

from llm_call.api import upstreams, usage
from llm_call.api.call import Call
from llm_call.api.catalog import Target
from llm_call.api.upstreams import Response
from serving.errors import ApiError

JSON = "application/json"
EVENTS = "text/event-stream"
PARSED_BYTES = 256 * 1024
"""A document up to this size is parsed, to find out that it is one; of a larger one only the ends are looked at."""
HELD_BYTES = 1024 * 1024
"""The most of an unfinished event that is held back."""

Outcome = Callable[[bool], None]
"""Called once with whether the answer came to its end."""


class Whole:
    """A document. What is learned of it waits until it is passed on: `outcome` hears of it by `close`."""

    def __init__(self, call: Call, target: Target, kind: str, body: bytes, outcome: Outcome) -> None:
        self.target = target
        self.kind = kind
        self.body = body
        self._call = call
        self._outcome = outcome

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the document."""
        yield self.body

    def close(self) -> None:
        """Count it. The connection was given back with the last byte."""
        self._call.usage = usage.read(self.body[-usage.TAIL_BYTES :])
        self._outcome(True)


class Streaming:
    """A stream. `outcome` hears how it ended; a client that leaves before is no outcome."""

    def __init__(self, call: Call, target: Target, response: Response, first: bytes, outcome: Outcome) -> None:
        self.target = target
        self.kind = response.headers.get("content-type", EVENTS)
        self._call = call
        self._response = response
        self._first = first
        self._outcome = outcome

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield whole lines as they come; raises ApiError if the upstream breaks off.

        So what was passed on before an error can be followed by an event that tells it. What is no stream of events
        passes as it is.
        """
        tail = held = b""
        events = self.kind.startswith(EVENTS)
        async for chunk in self._received():
            tail = (tail + chunk)[-usage.TAIL_BYTES :] if len(chunk) < usage.TAIL_BYTES else chunk[-usage.TAIL_BYTES :]
            if not events or chunk.endswith(b"\n"):
                yield held + chunk
                held = b""
                continue
            lines, end, rest = (held + chunk).rpartition(b"\n")
            if len(rest) > HELD_BYTES:
                lines, end, rest = lines + end + rest, b"", b""
            held = rest
            if lines:
                yield lines + end
        if held:
            yield held
        self._call.usage = usage.read(tail)
        self._outcome(True)

    def close(self) -> None:
        """Give the connection back to the pool after a whole answer, and close it after a part of one."""
        self._response.release()

    async def _received(self) -> AsyncGenerator[bytes, None]:
        call = self._call
        chunk = self._first
        try:
            while chunk:
                yield chunk
                asked = time.perf_counter()
                chunk = await self._response.content.readany()
                call.waited += time.perf_counter() - asked
        except (aiohttp.ClientError, TimeoutError) as error:
            self._outcome(False)
            raise upstreams.failure(self.target.upstream, error) from error


def malformed(target: Target, kind: str, body: bytes) -> ApiError | None:
    """Return the error for an answer that is no JSON document, or None."""
    if not kind.startswith(JSON):
        return upstreams.no_document(target.upstream, f"is {kind.partition(';')[0][:60]}, not JSON")
    if len(body) > PARSED_BYTES:
        whole = body[:1] in b"{[" and body.rstrip()[-1:] in b"}]"
        return None if whole else upstreams.no_document(target.upstream, "is not a JSON document")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return upstreams.no_document(target.upstream, "is not a JSON document")
    return None
