"""An upstream's answer: a whole document, or a stream of which the first bytes are here."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

import aiohttp
import orjson

from llm_call.api import counting, upstreams, usage
from llm_call.api.call import Call
from llm_call.api.catalog import Target
from llm_call.api.upstreams import Response
from serving import event_stream
from serving.errors import ApiError
from serving.event_stream import EVENTS

JSON = "application/json"
PARSED_BYTES = 256 * 1024
"""A document up to this size is parsed, to find out that it is one; of a larger one only the ends are looked at."""
HELD_BYTES = 1024 * 1024
"""The most of an unfinished event that is held back."""

Outcome = Callable[[bool], None]
"""Called once with whether the answer came to its end."""
Count = Callable[[Call, Target], None]
"""Called once when the answer is over, whole or not; what is known of its tokens is in the call."""


class Whole:
    """A document. What is learned of it waits until it is passed on: `outcome` hears of it by `close`."""

    def __init__(self, call: Call, target: Target, kind: str, body: bytes, outcome: Outcome, count: Count) -> None:
        self.target = target
        self.kind = kind
        self.body = body
        self._call = call
        self._outcome = outcome
        self._count = count

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the document."""
        yield self.body

    def close(self) -> None:
        """Count it. The connection was given back with the last byte."""
        self._call.usage = usage.read(self.body[-usage.TAIL_BYTES :])
        self._outcome(True)
        self._count(self._call, self.target)


class Streaming:
    """A stream. `outcome` hears how it ended; a client that leaves before is no outcome."""

    def __init__(
        self, call: Call, target: Target, response: Response, first: bytes, outcome: Outcome, count: Count
    ) -> None:
        self.target = target
        self.kind = response.headers.get("content-type", EVENTS)
        self._call = call
        self._response = response
        self._first = first
        self._outcome = outcome
        self._count = count
        self._events = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield whole events as they come; raises ApiError if the upstream breaks off.

        So what was passed on can be followed by an event that tells an error, or by a comment. What is no stream of events
        passes as it is.
        """
        tail, held = b"", bytearray()
        events = self.kind.startswith(EVENTS)
        async for chunk in self._received():
            tail = (tail + chunk)[-usage.TAIL_BYTES :] if len(chunk) < usage.TAIL_BYTES else chunk[-usage.TAIL_BYTES :]
            if not events:
                yield chunk
            elif not held and chunk.endswith(event_stream.ENDS):
                if piece := self._shown(chunk):
                    yield piece
            elif piece := self._shown(_whole(held, chunk)):
                yield piece
        if held:
            yield self._shown(bytes(held))
        self._call.usage = usage.read(tail)
        self._outcome(True)

    def _shown(self, piece: bytes) -> bytes:
        self._events += piece.count(b"data:")
        return counting.hidden(piece) if self._call.counting else piece

    def close(self) -> None:
        """Give the connection back to the pool after a whole answer, and close it after a part of one; count it."""
        self._response.release()
        if self._call.usage is None:
            self._call.usage = usage.estimate(self._call.asked.text, self._events)
        self._count(self._call, self.target)

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


def _whole(held: bytearray, chunk: bytes) -> bytes:
    """Add `chunk` to what is held, take the whole events from it and return them."""
    start = max(0, len(held) - event_stream.LONGEST_END)
    held += chunk
    end = event_stream.whole(held, start)
    if len(held) - end > HELD_BYTES:
        end = len(held)
    piece = bytes(held[:end])
    del held[:end]
    return piece


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
