from __future__ import annotations

import asyncio

import pytest

from claude_proxy.slots import Slots
from serving.errors import ApiError


def test_the_queue_is_short_and_a_slot_comes_back() -> None:
    async def story() -> None:
        slots = Slots(limit=1, queue=1, seconds=60)
        free = asyncio.Event()
        order = []

        async def hold(name: str) -> None:
            async with slots.take():
                order.append(name)
                await free.wait()

        first = asyncio.create_task(hold("first"))
        await asyncio.sleep(0)
        second = asyncio.create_task(hold("second"))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await hold("third")
        assert caught.value.status == 429
        assert int(caught.value.headers["retry-after"]) > 0
        free.set()
        await asyncio.gather(first, second)
        await hold("fourth")
        assert order == ["first", "second", "fourth"]

    asyncio.run(story())


def test_waiting_has_an_end() -> None:
    async def story() -> None:
        slots = Slots(limit=1, queue=1, seconds=0.01)
        async with slots.take():
            with pytest.raises(ApiError):
                async with slots.take():
                    raise AssertionError
        async with slots.take():
            pass

    asyncio.run(story())
