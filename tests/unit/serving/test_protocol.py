"""serving.protocol: what the sweep decides, on a transport that only takes notes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving import protocol, strangers
from serving.protocol import SPARE_CONNECTIONS, WRITE_SECONDS, BoundedProtocol, Limits, bounded
from serving.strangers import LINGER_BYTES, LINGER_SECONDS

LIMITS = Limits(30, 1000, stranger_seconds=30)
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"


class Notes(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = b""
        self.waiting = 0
        self.closed = self.aborted = self.ended = False

    def write(self, data) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.waiting


class Peer:
    """One connection and the time since it was made."""

    def __init__(self, app, kind: type[BoundedProtocol], state: ServerState) -> None:
        config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        made = config.http_protocol_class(config=config, server_state=state, app_state={}, _loop=loop)
        assert isinstance(made, BoundedProtocol)
        self.protocol = made
        self.transport = Notes()
        self.protocol.connection_made(self.transport)
        self.began = loop.time()

    def after(self, *seconds: float) -> None:
        """Sweep at these times."""
        for each in seconds:
            self.protocol.sweep(self.began + each)

    async def say(self, data: bytes) -> None:
        self.protocol.data_received(data)
        for _ in range(5):
            await asyncio.sleep(0)


async def taking(scope, receive, send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def thinking(scope, receive, send) -> None:
    await receive()
    await asyncio.Event().wait()


async def refusing(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def late(scope, receive, send) -> None:
    await asyncio.Event().wait()


def play(scenario: Callable[[Callable[..., Peer]], Awaitable[None]]) -> None:
    async def run() -> None:
        state = ServerState()
        kind = functools.cache(bounded)
        await scenario(lambda app=taking, limits=LIMITS: Peer(app, kind(limits), state))
        for task in state.tasks:
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)

    asyncio.run(run())


def test_a_silent_connection_gets_no_answer() -> None:
    async def scenario(connect) -> None:
        peer = connect()
        peer.after(29)
        assert not peer.transport.closed
        peer.after(31)
        assert peer.transport.closed
        assert peer.transport.written == b""

    play(scenario)


def test_an_unfinished_head_has_one_time_in_all() -> None:
    async def scenario(connect) -> None:
        peer = connect()
        for second in range(30):
            await peer.say(b"GET / HTTP/1.1\r\nx: " if not second else b"x")
            peer.after(second)
        assert peer.transport.written == b""
        peer.after(31)
        assert peer.transport.written.startswith(b"HTTP/1.1 408 ")
        assert peer.transport.ended
        peer.protocol.data_received(b"more")
        peer.after(LINGER_SECONDS + 1)
        assert peer.transport.closed

    play(scenario)


@pytest.mark.parametrize("app", [thinking, late])
def test_nobody_is_slow_while_the_application_works(app) -> None:
    async def scenario(connect) -> None:
        peer = connect(app)
        await peer.say(POST + b"abc")
        peer.after(*range(0, 600, 20))
        assert not peer.transport.closed
        assert peer.transport.written == b""

    play(scenario)


def test_whoever_waits_to_be_told_to_go_on_is_not_slow() -> None:
    async def scenario(connect) -> None:
        peer = connect(late)
        await peer.say(POST.replace(b"host", b"expect: 100-continue\r\nhost"))
        peer.after(*range(0, 600, 20))
        assert peer.transport.written == b""

    play(scenario)


def test_a_body_beyond_what_the_application_takes_is_not_slow() -> None:
    async def scenario(connect) -> None:
        peer = connect(late)
        await peer.say(POST.replace(b": 3", b": 999999") + b"x" * 70_000)
        peer.after(*range(0, 600, 20))
        assert peer.transport.written == b""

    play(scenario)


def test_the_application_sees_a_silent_client_leave() -> None:
    async def scenario(connect) -> None:
        left = asyncio.Event()

        async def app(scope, receive, send) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        peer = connect(app)
        await peer.say(POST + b"ab")
        peer.after(0, 31)
        assert peer.transport.written.startswith(b"HTTP/1.1 408 ")
        await asyncio.wait_for(left.wait(), 1)
        peer.protocol.shutdown()
        assert peer.transport.closed

    play(scenario)


def test_a_busy_connection_is_never_slow() -> None:
    async def scenario(connect) -> None:
        peer = connect()
        for second in range(0, 200, 10):
            # Between two looks a whole request came and went: each look finds an idle connection.
            await peer.say(POST + b"abc")
            peer.after(second)
        assert peer.transport.written.count(b"HTTP/1.1 200 ") == 20
        assert not peer.transport.closed
        peer.protocol.connection_lost(None)

    play(scenario)


def test_the_rest_of_a_body_that_nobody_wants_has_one_time_in_all() -> None:
    async def refusing(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def scenario(connect) -> None:
        peer = connect(refusing)
        await peer.say(POST.replace(b": 3", b": 999999"))
        for second in range(0, 32):
            await peer.say(b"x")
            peer.after(second)
        assert peer.transport.closed
        assert peer.transport.written.count(b"HTTP/1.1") == 1

    play(scenario)


def test_an_answer_that_has_begun_is_cut_not_mixed() -> None:
    async def beginning(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()

    async def scenario(connect) -> None:
        peer = connect(beginning)
        await peer.say(POST + b"abc")
        await peer.say(b"nonsense\r\n\r\n")
        assert peer.transport.closed
        assert b" 400 " not in peer.transport.written

    play(scenario)


def test_a_client_that_reads_nothing_is_cut_off_in_the_end() -> None:
    async def scenario(connect) -> None:
        peer = connect(thinking)
        await peer.say(POST + b"abc")
        peer.protocol.admit()
        peer.protocol.pause_writing()
        peer.transport.waiting = 100_000
        peer.after(1, WRITE_SECONDS)
        assert not peer.transport.aborted
        peer.transport.waiting = 90_000
        peer.after(WRITE_SECONDS + 2)
        peer.protocol.resume_writing()
        peer.after(WRITE_SECONDS + 3, 3 * WRITE_SECONDS)
        peer.protocol.pause_writing()
        peer.after(3 * WRITE_SECONDS + 1)
        assert not peer.transport.aborted, "the time begins anew"
        peer.after(4 * WRITE_SECONDS + 2)
        assert peer.transport.aborted
        peer.protocol.connection_lost(None)

    play(scenario)


def test_connections_above_the_limit() -> None:
    async def scenario(connect) -> None:
        few = Limits(30, 1, stranger_seconds=30)
        peers = []
        for _ in range(SPARE_CONNECTIONS + 1):
            peers.append(connect(limits=few))
            peers[-1].protocol.admit()
        assert not any(each.transport.closed for each in peers)
        assert connect(limits=few).transport.aborted
        for each in peers[1:]:
            each.protocol.connection_lost(None)
        second, third = connect(limits=few), connect(limits=few)
        await second.say(POST)
        assert second.transport.written.startswith(b"HTTP/1.1 503 ")
        third.after(LINGER_SECONDS + 1)
        assert (third.transport.closed, third.transport.written) == (True, b"")
        await peers[0].say(POST + b"abc")
        assert peers[0].transport.written.startswith(b"HTTP/1.1 200 ")
        peers[0].protocol.connection_lost(None)

    play(scenario)


def test_newcomers_are_let_in_and_the_oldest_without_a_key_goes() -> None:
    async def scenario(connect) -> None:
        # The clock stands still: on a busy machine it takes longer than the grace to make so many.
        loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        loop.time = lambda: now
        few = Limits(30, 4)
        room = few.room
        known, busy = connect(limits=few), connect(thinking, few)
        known.protocol.admit()
        await busy.say(POST + b"abc")
        crowd = [connect(limits=few) for _ in range(room.most - 1)]
        assert not any(each.transport.closed for each in crowd), "all of them are young"
        newcomer = connect(limits=few)
        assert [each.transport.aborted for each in crowd[:2]] == [True, False], "no room is left at all"
        for each in crowd:
            each.protocol.made -= strangers.GRACE_SECONDS + 1
        await newcomer.say(POST + b"abc")
        assert newcomer.transport.written.startswith(b"HTTP/1.1 200 ")
        for _ in range(room.most):
            connect(limits=few)
        assert all(each.transport.aborted for each in crowd)
        assert not known.transport.closed
        assert not busy.transport.closed, "it waits for the application"

    play(scenario)


def test_a_client_without_a_key_has_a_few_seconds_for_a_head() -> None:
    async def scenario(connect) -> None:
        silent, dripping, known = (connect(limits=Limits()) for _ in range(3))
        await dripping.say(POST[:20])
        known.protocol.admit()
        for each in (silent, dripping, known):
            each.after(0, strangers.SECONDS - 0.5)
            assert not each.transport.written
            each.after(strangers.SECONDS + 1)
        assert (silent.transport.closed, silent.transport.written) == (True, b"")
        assert dripping.transport.written.startswith(b"HTTP/1.1 408 ")
        assert not known.transport.closed

    play(scenario)


def test_an_early_answer_to_a_client_without_a_key_is_followed_by_a_short_linger() -> None:
    async def scenario(connect) -> None:
        peer, greedy, known = (connect(refusing) for _ in range(3))
        for each in (peer, greedy, known):
            if each is known:
                each.protocol.admit()
            await each.say(POST.replace(b": 3", b": 100000000") + b"x")
            assert each.transport.written.startswith(b"HTTP/1.1 401 ")
            assert each.transport.ended == (each is not known), "the end of the answers"
            assert not each.transport.closed, "unread bytes would be a reset"
        for each in (peer, known):
            await each.say(b"x" * 1000)
            each.after(LINGER_SECONDS + 1)
        assert (peer.transport.closed, known.transport.closed) == (True, False)
        for _ in range(LINGER_BYTES // 2**20 + 1):
            await greedy.say(b"x" * 2**20)
        assert greedy.transport.aborted

    play(scenario)


def test_a_client_without_a_key_that_reads_a_little_now_and_then_is_cut_off() -> None:
    async def scenario(connect) -> None:
        peer = connect(thinking, Limits())
        await peer.say(POST + b"abc")
        peer.protocol.pause_writing()
        for second in range(10):
            peer.transport.waiting = 100_000 - second
            peer.after(second)
        assert not peer.transport.aborted
        peer.after(12)
        assert peer.transport.aborted
        peer.protocol.connection_lost(None)

    play(scenario)


def test_endless_chunk_extensions_are_refused() -> None:
    async def scenario(connect) -> None:
        peer = connect()
        await peer.say(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;")
        for _ in range(protocol.HEAD_BYTES // 1000 + 1):
            await peer.say(b"x" * 1000)
        assert b" 4" in peer.transport.written[:12]

    play(scenario)


def test_a_pipelined_head_after_a_large_body_is_not_large() -> None:
    async def scenario(connect) -> None:
        peer = connect()
        whole = POST.replace(b": 3", b": 200000") + b"x" * 200_000
        await peer.say(whole[:60])
        await peer.say(whole[60:] + POST[:30])
        await peer.say(POST[30:] + b"abc")
        assert peer.transport.written.count(b"HTTP/1.1 200 ") == 2
        peer.protocol.connection_lost(None)

    play(scenario)
