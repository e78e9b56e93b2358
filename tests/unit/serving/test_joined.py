"""serving.joined and serving.direct: fewer steps on the way of a request, the same outcome."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.direct import Direct
from serving.errors import ApiError
from serving.joined import JoinedWrites
from tests.support.asgi import ask

HEAD = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"


class Transport:
    def __init__(self) -> None:
        self.did: list[Any] = []

    def write(self, data: bytes) -> None:
        self.did.append(data)

    def write_eof(self) -> None:
        self.did.append("eof")

    def close(self) -> None:
        self.did.append("close")

    def is_closing(self) -> bool:
        return False


def joined(*actions: str | bytes) -> list[Any]:
    """What a transport sees of writes (bytes) and calls (names); "pause" lets the event loop come round."""

    async def scenario() -> list[Any]:
        below = Transport()
        transport = JoinedWrites(below, asyncio.get_running_loop())  # type: ignore[arg-type]
        for action in actions:
            if isinstance(action, bytes):
                transport.write(action)
            elif action == "pause":
                await asyncio.sleep(0)
            else:
                getattr(transport, action)()
        seen = list(below.did)
        assert transport.is_closing() is False
        await asyncio.sleep(0)
        assert below.did == seen
        return seen

    return asyncio.run(scenario())


def test_head_and_body_are_one_write() -> None:
    assert joined(HEAD, b"body", b"more") == [HEAD + b"body", b"more"]


def test_a_head_alone_goes_out_soon() -> None:
    assert joined(HEAD, "pause", b"body") == [HEAD, b"body"]


def test_the_end_comes_after_the_head() -> None:
    assert joined(HEAD, "close") == [HEAD, "close"]
    assert joined(HEAD, "write_eof") == [HEAD, "eof"]


def test_a_body_that_looks_like_a_head_keeps_its_place() -> None:
    assert joined(HEAD, HEAD, HEAD, b"x") == [HEAD + HEAD, HEAD + b"x"]


def test_only_what_is_listed_goes_straight() -> None:
    async def framework(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        raise ApiError(418, "a teapot")

    app = Direct(framework, {"/hot": endpoint})
    asked = [
        asyncio.run(ask(app, method, path)) for method, path in (("POST", "/hot"), ("GET", "/hot"), ("POST", "/x"))
    ]
    assert [each.status for each in asked] == [418, 204, 204]
    assert asked[0].json["error"]["message"] == "a teapot"
