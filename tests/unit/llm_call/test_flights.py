"""llm_call.api.flights: nobody waits for another who listens, and no more is kept than may be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from llm_call.api import flights
from llm_call.api.flights import LEAST_BYTES, Flight, Flights
from serving.errors import ApiError

CHUNK = b"x" * 1000
WINDOW = 10 * len(CHUNK)


class Scene:
    """One flight of so many chunks, and what it holds."""

    def __init__(self, chunks: int, window: int | None = WINDOW) -> None:
        self.all = Flights()
        self.sent = 0
        self._chunks = chunks
        self._window = window

    async def _fly(self, flight: Flight) -> None:
        flight.begin("u", "text/event-stream")
        for _ in range(self._chunks):
            await flight.add(CHUNK)
            self.sent += 1
            await asyncio.sleep(0)
        flight.finish()

    def join(self) -> tuple[Flight, bool]:
        return self.all.join("name", self._window, self._fly)

    async def listen(self, until: int | None = None, blocked: asyncio.Event | None = None) -> int:
        """Take so many chunks, then wait until `blocked` is set, then take the rest; return how many came."""
        flight, _ = self.join()
        count = 0
        with flight:
            async for _ in flight.chunks():
                count += 1
                if count == until and blocked:
                    await blocked.wait()
        return count

    @property
    def held(self) -> int:
        return self.all._held.size


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await scenario()

    asyncio.run(run())


def test_one_that_stops_is_left_behind_and_delays_nobody() -> None:
    async def scenario() -> None:
        scene, blocked = Scene(100), asyncio.Event()
        stopped = asyncio.create_task(scene.listen(3, blocked))
        assert await scene.listen() == 100
        assert scene.held <= WINDOW + len(CHUNK)
        blocked.set()
        with pytest.raises(ApiError) as caught:
            await stopped
        assert caught.value.code == "reader_too_slow"
        assert scene.held == 0

    play(scenario)


def test_one_that_pauses_within_the_window_misses_nothing() -> None:
    async def scenario() -> None:
        scene, blocked = Scene(10), asyncio.Event()
        slow = asyncio.create_task(scene.listen(3, blocked))
        assert await scene.listen() == 10
        blocked.set()
        assert await slow == 10
        assert scene.held == 0

    play(scenario)


def test_the_fastest_is_waited_for_and_another_may_become_that() -> None:
    async def scenario() -> None:
        scene, first, second = Scene(100), asyncio.Event(), asyncio.Event()
        leader, follower = (
            asyncio.create_task(scene.listen(until, event)) for until, event in ((20, first), (15, second))
        )
        most = 19 + WINDOW // 2 // len(CHUNK)  # the twentieth is not read yet
        while scene.sent < most:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert scene.sent == most  # nobody reads, so nothing more is taken of the upstream
        second.set()
        assert await follower == 100
        first.set()
        with pytest.raises(ApiError):
            await leader

    play(scenario)


def test_who_leaves_first_ends_nothing_for_the_others() -> None:
    async def scenario() -> None:
        scene = Scene(100)
        first = asyncio.create_task(scene.listen(5, asyncio.Event()))
        second = asyncio.create_task(scene.listen())
        while scene.sent < 5:
            await asyncio.sleep(0)
        first.cancel()
        assert await second == 100
        assert scene.held == 0

    play(scenario)


def test_when_all_leave_nothing_is_held_and_the_upstream_is_left() -> None:
    async def scenario() -> None:
        scene = Scene(100)
        listeners = [asyncio.create_task(scene.listen(5, asyncio.Event())) for _ in range(3)]
        while scene.sent < 5:
            await asyncio.sleep(0)
        for each in listeners:
            each.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        await scene.all.close()
        assert (scene.held, scene.sent < 100) == (0, True)

    play(scenario)


def test_all_streams_together_keep_less_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scene, blocked = Scene(1000, 1_000_000), asyncio.Event()
        stopped = asyncio.create_task(scene.listen(1, blocked))
        assert await scene.listen() == 1000
        kept = scene.held
        blocked.set()
        await asyncio.gather(stopped, return_exceptions=True)
        assert kept <= 2 * LEAST_BYTES

    monkeypatch.setattr(flights, "HELD_BYTES", 2 * LEAST_BYTES)
    play(scenario)
