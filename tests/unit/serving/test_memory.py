"""serving.memory and serving.body: what all requests hold together is bounded, and so is what a body becomes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving import body, memory
from serving.errors import ApiError
from serving.logs import RequestLog
from tests.support.asgi import ask

MEGABYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_held", 0)


def test_a_body_is_counted_until_its_request_ends() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await body.read(scope, receive, 10 * MEGABYTE)
        seen.append(memory.held())

    raw = b"x" * MEGABYTE
    for headers in ({"content-length": str(len(raw))}, {"content-length": "5"}):
        asyncio.run(ask(RequestLog(app), "POST", "/x", raw[: int(headers["content-length"])], headers))
    assert seen == [MEGABYTE, 0]
    assert memory.held() == 0


def test_too_many_large_bodies_are_turned_away_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "HELD_BYTES", 3 * MEGABYTE)
    one, two = {}, {}  # type: dict[str, Any], dict[str, Any]
    memory.hold(one, 2 * MEGABYTE)
    with pytest.raises(ApiError) as caught:
        memory.hold(two, 2 * MEGABYTE)
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "1")
    memory.release(two)
    memory.release(one)
    memory.release(one)
    memory.hold(two, 2 * MEGABYTE)
    memory.release(two)
    assert memory.held() == 0


def test_a_body_that_would_explode_when_parsed_is_refused() -> None:
    with pytest.raises(ApiError) as caught:
        body.parse(b'{"messages":[' + b"[]," * 600_000 + b"1]}")
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")
    assert body.parse(b'{"image":"' + b"A" * 5_000_000 + b'"}')
