"""Identical requests at the same time are one: the first asks, the others listen. Nobody waits for another who listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType

from serving.errors import ApiError, internal

log = logging.getLogger("llm_call.flights")

HELD_BYTES = 64 * 1024 * 1024
"""Of all streams that are on their way or still being read; beyond it each keeps LEAST_BYTES only."""
LEAST_BYTES = 128 * 1024
"""The least that a stream may run ahead of who reads it; twice what an upstream's connection buffers."""


class Held:
    """How many bytes all flights hold together."""

    def __init__(self) -> None:
        self.size = 0


class _Reader:
    """How far one listener is, in chunks and in bytes."""

    __slots__ = ("chunks", "size")

    def __init__(self) -> None:
        self.chunks = 0
        self.size = 0


class Flight:
    """One answer on its way. Entered by those who listen.

    It is kept whole, for whoever joins later and for the cache, until it has more than `window` bytes (None: always).
    From then on nobody joins any more, and the last `window` bytes are kept: half of them may be ahead of the fastest
    listener, for whom it waits; the other half is for those who are slower. One that is further behind is left behind, with
    an error.
    """

    def __init__(
        self,
        window: int | None,
        leave: Callable[[Flight], None],
        outgrow: Callable[[], None],
        held: Held | None = None,
    ) -> None:
        self.upstream = ""
        self.kind = ""
        self.kept = False
        self.listeners = 0
        self.task: asyncio.Task[None] | None = None
        self._window = window
        self._leave = leave
        self._outgrow = outgrow
        self._held = held or Held()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._came = 0
        self._dropped = 0
        self._readers: set[_Reader] = set()
        self._error: ApiError | None = None
        self._done = False
        self._news = asyncio.Event()
        self._progress = asyncio.Event()

    def __enter__(self) -> Flight:
        self.listeners += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listeners -= 1
        self._progress.set()
        if not self.listeners:
            self._leave(self)
            self._held.size -= self._size
            self._size = 0

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done

    @property
    def whole(self) -> bytes | None:
        """Everything that came so far; None if not all of it is there any more."""
        return None if self._dropped else b"".join(self._chunks)

    def begin(self, upstream: str, kind: str, *, kept: bool = False) -> None:
        """Say who answers, and whether that answer was kept from before."""
        self.upstream, self.kind, self.kept = upstream, kind, kept

    async def add(self, chunk: bytes) -> None:
        """Pass on the next bytes; returns when there is room for more."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._held.size += len(chunk)
        self._came += len(chunk)
        self._tell()
        if self._window is None or self._size <= self._limit(self._window):
            return
        self._outgrow()
        if self.listeners > len(self._readers):
            await asyncio.sleep(0)  # who has just heard of the first bytes begins to read now
        while self._came - max((each.size for each in self._readers), default=0) > self._limit(self._window) // 2:
            self._progress.clear()
            await self._progress.wait()
        self._forget(self._limit(self._window))

    def finish(self, error: ApiError | None = None) -> None:
        """Nothing more comes."""
        self._done, self._error = True, error
        self._tell()

    async def head(self) -> None:
        """Wait until `upstream` and `kind` are known and bytes are here; raises ApiError."""
        while not self._came and not self._done:
            await self._news.wait()
        if self._error and not self._came:
            raise self._error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield everything from the beginning; raises ApiError where it breaks off, or the listener is left behind."""
        me = _Reader()
        self._readers.add(me)
        try:
            while True:
                news = self._news
                while me.chunks < self._dropped + len(self._chunks):
                    if me.chunks < self._dropped:
                        raise _left_behind()
                    chunk = self._chunks[me.chunks - self._dropped]
                    yield chunk
                    me.chunks += 1
                    me.size += len(chunk)
                    self._progress.set()
                if self._done:
                    break
                if news is self._news:
                    await news.wait()
        finally:
            self._readers.discard(me)
            self._progress.set()
        if self._error:
            raise self._error

    def _limit(self, window: int) -> int:
        return window if self._held.size <= HELD_BYTES else min(window, LEAST_BYTES)

    def _forget(self, limit: int) -> None:
        """Drop the oldest chunks; the fastest listener has read all that goes."""
        while self._size > limit:
            size = len(self._chunks.popleft())
            self._size -= size
            self._held.size -= size
            self._dropped += 1

    def _tell(self) -> None:
        self._news.set()
        if not self._done:
            self._news = asyncio.Event()


class Flights:
    """The answers on their way, by what was asked."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = Held()

    def join(self, name: str, window: int | None, fly: Callable[[Flight], Awaitable[None]]) -> tuple[Flight, bool]:
        """Return the flight for `name`, to be entered before anything is awaited, and whether it was begun just now.

        `window` is for a new one, in bytes. `fly` brings the answer; it is cancelled when the last listener has left.
        """
        flight = self._flights.get(name)
        if flight:
            return flight, False

        def leave(flight: Flight) -> None:
            if self._flights.get(name) is flight and not flight.done:
                del self._flights[name]
            if flight.task and not flight.done:
                flight.task.cancel()

        def outgrow() -> None:
            if self._flights.get(name) is flight:
                del self._flights[name]

        flight = self._flights[name] = Flight(window, leave, outgrow, self._held)
        flight.task = asyncio.create_task(self._run(name, flight, fly))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return flight, True

    async def close(self) -> None:
        """End what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, name: str, flight: Flight, fly: Callable[[Flight], Awaitable[None]]) -> None:
        try:
            await fly(flight)
        except ApiError as error:
            flight.finish(error)
        except Exception:
            log.exception("a shared request failed")
            flight.finish(internal())
        finally:
            if not flight.done:
                flight.finish(internal())
            if self._flights.get(name) is flight:
                del self._flights[name]


def _left_behind() -> ApiError:
    message = "The answer is shared with a client that reads it faster, and this one fell too far behind; ask again."
    return ApiError(503, message, type="server_error", code="reader_too_slow")
