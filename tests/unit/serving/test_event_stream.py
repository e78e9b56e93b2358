"""serving.event_stream: comments in silence, where they belong and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from serving.errors import ApiError
from serving.event_stream import COMMENT, EventStream, whole

PLAIN = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream"), (b"x-who", b"upstream")]
EARLY = [(b"content-type", b"text/event-stream")]
SECONDS = 0.02


class Client:
    """What was sent; it reads nothing while `blocked` is set."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.blocked = asyncio.Event()
        self.blocked.set()
        self.news = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.blocked.wait()
        self.sent.append(message)
        self.news.set()

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.sent)

    async def comments(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.body.count(COMMENT) < count:
                self.news.clear()
                await self.news.wait()


def play(scenario: Callable[[EventStream, Client], Awaitable[None]], seconds: float = SECONDS) -> Client:
    async def run() -> Client:
        client = Client()
        with EventStream(client.send, seconds, lambda: EARLY) as out:
            await scenario(out, client)
        await asyncio.sleep(3 * SECONDS)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return client

    return asyncio.run(run())


def test_silence_before_the_first_event_is_broken_by_a_head_and_comments() -> None:
    async def scenario(out: EventStream, client: Client) -> None:
        await client.comments(2)
        await out.start(EVENTS)
        await out.write(b"data: 1\n\n")
        await client.comments(4)
        await out.write(b"data: [DONE]\n\n", more=False)

    client = play(scenario)
    head, *rest = client.sent
    assert (head["status"], head["headers"]) == (200, EARLY)
    assert [each["type"] for each in rest] == ["http.response.body"] * len(rest)
    assert client.body.replace(COMMENT, b"") == b"data: 1\n\ndata: [DONE]\n\n"
    assert client.sent[-1]["body"] == b"data: [DONE]\n\n"


def test_who_is_fast_gets_the_upstreams_head_and_no_comment() -> None:
    async def scenario(out: EventStream, _client: Client) -> None:
        await out.relay(EVENTS, pieces(b"data: 1\n\n", b"data: [DONE]\n\n"))
        await asyncio.sleep(3 * SECONDS)

    client = play(scenario)
    assert client.sent[0]["headers"] == EVENTS
    assert client.body == b"data: 1\n\ndata: [DONE]\n\n"


def test_no_comment_stands_within_an_event() -> None:
    async def scenario(out: EventStream, client: Client) -> None:
        await out.start(EVENTS)
        await out.write(b"data: 1\n\ndata: ")
        await asyncio.sleep(5 * SECONDS)
        await out.write(b"2\r\n\r\n")
        await client.comments(1)
        await out.write(b"", more=False)

    assert play(scenario).body.replace(COMMENT, b"#").startswith(b"data: 1\n\ndata: 2\r\n\r\n#")


def test_what_is_no_stream_of_events_has_none() -> None:
    async def scenario(out: EventStream, _client: Client) -> None:
        await out.start(PLAIN)
        await out.write(b"{}")
        await asyncio.sleep(5 * SECONDS)
        await out.write(b"", more=False)

    assert play(scenario).body == b"{}"


def test_an_error_is_raised_before_the_first_comment_and_an_event_after_it() -> None:
    error = ApiError(503, "no room", code="full")

    async def fast(out: EventStream, _client: Client) -> None:
        with pytest.raises(ApiError, match="no room"):
            await out.fail(error)
        assert out.status == 200

    assert play(fast).sent == []

    async def slow(out: EventStream, client: Client) -> None:
        await client.comments(1)
        await out.fail(error, status=True)
        assert out.status == 503

    client = play(slow)
    assert client.body.replace(COMMENT, b"") == b'data: {"error":' + error.body(status=True)[9:] + b"\n\n"
    assert b'"status":503' in client.body
    assert client.sent[-1]["more_body"] is False


def test_what_turns_out_to_be_no_stream_after_a_comment_is_an_error() -> None:
    async def scenario(out: EventStream, client: Client) -> None:
        await client.comments(1)
        with pytest.raises(ApiError, match="no stream") as caught:
            await out.relay(PLAIN, pieces(b"{}"))
        await out.fail(caught.value)

    assert b"upstream_failed" in play(scenario).body


def test_a_client_that_does_not_read_gets_no_pile_of_comments() -> None:
    async def scenario(out: EventStream, client: Client) -> None:
        await out.start(EVENTS)
        client.blocked.clear()
        writing = asyncio.create_task(out.write(b"data: 1\n\n"))
        await asyncio.sleep(5 * SECONDS)
        client.blocked.set()
        await writing
        client.blocked.clear()
        await asyncio.sleep(5 * SECONDS)  # one comment waits
        ending = asyncio.create_task(out.write(b"data: 2\n\n", more=False))
        await asyncio.sleep(5 * SECONDS)
        client.blocked.set()
        await ending

    assert play(scenario).body == b"data: 1\n\n" + COMMENT + b"data: 2\n\n"


def test_comments_can_be_switched_off() -> None:
    async def scenario(out: EventStream, _client: Client) -> None:
        await out.start(EVENTS)
        await out.write(b"data: 1\n\n")
        await asyncio.sleep(5 * SECONDS)
        await out.write(b"", more=False)

    assert play(scenario, 0.0).body == b"data: 1\n\n"


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", 0),
        (b"data: 1", 0),
        (b"a\n\nb", 3),
        (b"a\r\n\r\nb", 5),
        (b"a\r\rb", 3),
        (b"a\n\nb\r\n\r\n", 8),
        (b"a\r\n\r", 0),
    ],
)
def test_where_the_last_whole_event_ends(data: bytes, end: int) -> None:
    assert whole(data) == end


async def pieces(*each: bytes) -> AsyncIterator[bytes]:
    for piece in each:
        yield piece
