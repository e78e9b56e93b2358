"""Identical requests at the same time are one: the first asks, the others listen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType

from llm_call.api.usage import Usage
from serving.errors import ApiError, internal

log = logging.getLogger("llm_call.flights")


class Flight:
    """One answer on its way, kept whole until the last listener has it. Entered by those who listen."""

    def __init__(self, leave: Callable[[Flight], None]) -> None:
        self.upstream = ""
        self.kind = ""
        self.kept = False
        self.usage: Usage | None = None
        self.listeners = 0
        self.task: asyncio.Task[None] | None = None
        self._leave = leave
        self._chunks: list[bytes] = []
        self._size = 0
        self._error: ApiError | None = None
        self._done = False
        self._news = asyncio.Event()

    def __enter__(self) -> Flight:
        self.listeners += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listeners -= 1
        if not self.listeners:
            self._leave(self)

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done

    @property
    def whole(self) -> bytes:
        """Everything that came so far."""
        return b"".join(self._chunks)

    def begin(self, upstream: str, kind: str, *, kept: bool = False) -> None:
        """Say who answers, and whether that answer was kept from before."""
        self.upstream, self.kind, self.kept = upstream, kind, kept

    def add(self, chunk: bytes) -> None:
        """Pass on the next bytes."""
        self._chunks.append(chunk)
        self._tell()

    def finish(self, error: ApiError | None = None) -> None:
        """Nothing more comes."""
        self._done, self._error = True, error
        self._tell()

    async def head(self) -> None:
        """Wait until `upstream` and `kind` are known and bytes are here; raises ApiError."""
        while not self._chunks and not self._done:
            await self._news.wait()
        if self._error and not self._chunks:
            raise self._error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield everything from the beginning; raises ApiError where it breaks off."""
        position = 0
        while True:
            news = self._news
            while position < len(self._chunks):
                position += 1
                yield self._chunks[position - 1]
            if self._done:
                break
            if news is self._news:
                await news.wait()
        if self._error:
            raise self._error

    def _tell(self) -> None:
        self._news.set()
        if not self._done:
            self._news = asyncio.Event()


class Flights:
    """The answers on their way, by what was asked."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}

    def join(self, name: str, fly: Callable[[Flight], Awaitable[None]]) -> tuple[Flight, bool]:
        """Return the flight for `name`, to be entered before anything is awaited, and whether it was begun just now.

        `fly` brings the answer; it is cancelled when the last listener has left.
        """
        flight = self._flights.get(name)
        if flight:
            return flight, False

        def leave(flight: Flight) -> None:
            if self._flights.get(name) is flight and not flight.done:
                del self._flights[name]
            if flight.task and not flight.done:
                flight.task.cancel()

        flight = self._flights[name] = Flight(leave)
        flight.task = asyncio.create_task(self._run(name, flight, fly))
        return flight, True

    async def close(self) -> None:
        """End what is on its way."""
        tasks = [flight.task for flight in self._flights.values() if flight.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
