"""The gate's connections: reads requests, lets through what a run may have, and passes answers back as they come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from claude_proxy.gate import document, head
from claude_proxy.gate.connection import HIGH_WATER, Connection, Gone
from claude_proxy.gate.door import Door
from claude_proxy.gate.ledger import CONNECTIONS, Account, Ledger
from claude_proxy.gate.provider import Answer, Provider, Unreachable
from claude_proxy.gate.refusal import Refusal, malformed
from claude_proxy.gate.usage import Counter

log = logging.getLogger("claude_proxy.gate")

HEAD_SECONDS = 5.0
"""From the connection, or the first byte of a later request, to the end of its head."""
KEEP_SECONDS = 60.0
"""How long a connection of a run may be idle."""
PIECE_SECONDS = 5.0
"""How long a body may stand still."""
LEAST_RATE = 256 * 1024
"""In bytes per second: what a body has to make on average, after PIECE_SECONDS. It comes from the same machine."""
READ_SECONDS = 60.0
"""How long a run may leave an answer unread that waits for it."""
LINGER_SECONDS = 2.0
"""How long a client may take to read the end of a connection."""
READERS = 2
"""Large bodies that are read at the same time: the values of one take up to 150 MB while it is."""
PATIENCE_SECONDS = 0.01
"""Between two refusals that one run gets: so it gets a hundred a second."""
LARGE = 256 * 1024
"""From how many bytes on a body is read in a thread, so that nobody else waits for it."""
RETURNED = (b"content-type", b"cache-control", b"request-id", b"retry-after", b"x-should-retry")
"""The header fields of an answer that a run gets, beside those that begin with anthropic-."""

Report = Callable[[Account, str], None]
"""Is told when an account has changed, and the reason of a refusal (empty: none)."""


class Server:
    """Serves every connection to the gate."""

    def __init__(self, ledger: Ledger, provider: Provider, report: Report) -> None:
        self._ledger = ledger
        self._provider = provider
        self._report = report
        self._door = Door(self._begun)
        self._readers = asyncio.Semaphore(READERS)
        self._tasks: dict[asyncio.Task[None], Account | None] = {}

    def open(self, listener: socket.socket) -> None:
        """Begin to serve."""
        self._door.open(listener)

    async def end(self, account: Account | None) -> None:
        """Cut off every connection of a run, and wait until nothing of it is left."""
        tasks = [task for task, owner in self._tasks.items() if account and owner is account]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begun(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(_Talk(self, connection).run())
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        leave = connection.on_lost

        def lost() -> None:
            # Whoever leaves wants no answer: the call to the provider ends, too.
            task.cancel()
            if leave:
                leave()

        connection.on_lost = lost

    def _own(self, connection: Connection, account: Account) -> None:
        """Make the running task's connection one of a run."""
        task = asyncio.current_task()
        assert task
        self._tasks[task] = account
        self._door.know(connection)


class _Talk:
    """One connection, request by request."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self._server = server
        self._connection = connection
        self._account: Account | None = None
        self._answered = False

    async def run(self) -> None:
        """Serve until either side ends it."""
        try:
            while await self._request():
                pass
            await self._linger()
        except (Gone, TimeoutError):
            pass
        except Exception:
            log.exception("a request to the gate failed")
        finally:
            if self._account:
                self._account.connections -= 1
            self._connection.transport.abort()

    async def _request(self) -> bool:
        """Serve one request; whether the connection stays."""
        self._answered = False
        if self._account:
            async with asyncio.timeout(KEEP_SECONDS):
                await self._connection.begun()
        read = 0
        length = -1
        try:
            asked = await self._head()
            length = asked.length
            account = await self._known(asked.token)
            account.check(time.monotonic())
            with self._server._ledger.holding(account, asked.length):
                body = await self._body(asked.length)
                read = len(body)
                await self._call(account, asked, body)
            return not asked.last
        except Refusal as refusal:
            if self._account:
                self._account.refused += 1
                self._server._report(self._account, refusal.reason)
            if self._answered:
                return False
            if self._account:
                await _patience(self._account)
            # Only a request that was read to its end leaves the connection fit for another one.
            stays = bool(self._account) and read == length and not asked.last
            await self._connection.write(refusal.answer(close=not stays))
            return stays

    async def _head(self) -> head.Head:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                raw = await self._connection.until(head.END, head.LARGEST)
        except ValueError as error:
            raise malformed(what=f"its head has more than {head.LARGEST} bytes") from error
        return head.read(raw)

    async def _known(self, token: bytes) -> Account:
        """Return the run of the token; a connection belongs to the first one that it showed."""
        account = self._server._ledger.find(token)
        if self._account is None:
            if account.connections >= CONNECTIONS:
                await _patience(account)
                raise Refusal(429, "connections", f"a request has at most {CONNECTIONS} connections to the gate")
            account.connections += 1
            self._account = account
            self._server._own(self._connection, account)
        elif account is not self._account:
            raise Refusal(401, "unknown", "this connection belongs to another request")
        return account

    async def _body(self, length: int) -> bytes:
        """Return the whole body; raises Refusal 408 when it stands still or drips."""
        parts: list[bytes] = []
        left = length
        try:
            async with asyncio.timeout(PIECE_SECONDS + length / LEAST_RATE):
                while left:
                    async with asyncio.timeout(PIECE_SECONDS):
                        part = await self._connection.some(min(left, HIGH_WATER))
                    if not part:
                        raise Gone
                    parts.append(part)
                    left -= len(part)
        except TimeoutError as error:
            raise Refusal(408, "slow", "the body did not arrive in time; send it at once") from error
        return b"".join(parts)

    async def _call(self, account: Account, asked: head.Head, body: bytes) -> None:
        async with account.slots:
            # Once more: others may have used up what was left while this one waited.
            account.check(time.monotonic())
            account.calls += 1
            self._server._report(account, "")
            account.admit(await self._read(account, body))
            counter = Counter(len(body))
            whole = False
            try:
                answer = await self._server._provider.call(
                    asked.target, asked.onward(long_context=account.long_context), body
                )
                try:
                    await self._pass_on(answer, counter, last=asked.last)
                    whole = True
                finally:
                    answer.close()
            except Unreachable:
                counter.begin(503, b"")  # nothing was sent, so nothing is counted
                raise
            finally:
                account.tokens += sum(counter.tokens(whole=whole))
                self._server._report(account, "")

    async def _read(self, account: Account, body: bytes) -> document.Asked:
        if len(body) <= LARGE:
            return document.read(body)
        # One of a run at a time, so that its own wait for each other and not for those of others.
        async with account.reading, self._server._readers:
            return await asyncio.to_thread(document.read, body)

    async def _pass_on(self, answer: Answer, counter: Counter, *, last: bool) -> None:
        if answer.header(b"content-encoding") not in (b"", b"identity"):
            raise Refusal(502, "compressed", "the provider compressed its answer, although it was asked not to")
        counter.begin(answer.status, answer.header(b"content-type"))
        length = answer.header(b"content-length")
        lines = [b"HTTP/1.1 %d %b" % (answer.status, _phrase(answer.status))]
        lines += [
            b"%b: %b" % each for each in answer.headers if each[0] in RETURNED or each[0].startswith(b"anthropic-")
        ]
        lines.append(b"content-length: " + length if length else b"transfer-encoding: chunked")
        lines += [b"connection: " + (b"close" if last else b"keep-alive"), b"", b""]
        self._answered = True
        await self._write(b"\r\n".join(lines))
        async for part in answer.body():
            counter.feed(part)
            await self._write(part if length else b"%x\r\n%b\r\n" % (len(part), part))
        if not length:
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(READ_SECONDS):
            await self._connection.write(data)

    async def _linger(self) -> None:
        """Give the client the time to read the end: closing with unread bytes would be a reset, and hide the answer."""
        with contextlib.suppress(OSError, RuntimeError):
            self._connection.transport.write_eof()
        async with asyncio.timeout(LINGER_SECONDS):
            while await self._connection.some():
                pass


async def _patience(account: Account) -> None:
    """Have a run that is refused again and again wait for each refusal, so that it takes no time from others."""
    async with account.patience:
        await asyncio.sleep(PATIENCE_SECONDS)


def _phrase(status: int) -> bytes:
    with contextlib.suppress(ValueError):
        return HTTPStatus(status).phrase.encode()
    return b"Unknown"
