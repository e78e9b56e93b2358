"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from claude_proxy import failures, grants
from claude_proxy.answers import Plain, Stream
from claude_proxy.calls import Calls
from claude_proxy.conversation import CONFIGURING, UNDERSTOOD, UNSUPPORTED, Ask, translate
from claude_proxy.events import Event
from claude_proxy.metrics import Figures
from serving import body
from serving.asgi import Receive, Scope, Send, notes
from serving.errors import ApiError
from serving.keys_file import Key
from serving.strict_json import Names

NAMES = Names(UNDERSTOOD | CONFIGURING | UNSUPPORTED)
"""The members that the service acts on, and be it to refuse them: another spelling is refused."""


class Chat:
    """An ASGI endpoint, because it has to notice a client that leaves while the CLI works."""

    def __init__(
        self, calls: Calls, figures: Figures, servers: Collection[str], max_body: int, keep_alive: float
    ) -> None:
        self._calls = calls
        self._figures = figures
        self._servers = servers
        self._max_body = max_body
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises ApiError as long as nothing of the answer was sent, and ClientGone before."""
        asked = await body.document(scope, receive, self._max_body, NAMES)
        large = len(asked.text) > body.LARGE_BYTES
        ask = await asyncio.to_thread(translate, asked.members) if large else translate(asked.members)
        key: Key = notes(scope)["grant"]
        grants.check_model(key, ask.model)
        granted = grants.narrowed(grants.grant(key, self._servers), scope)
        ask = grants.apply(ask, granted)
        notes(scope)["log"] = {"model": ask.model, "stream": ask.stream}
        with Stream(ask, send, self._keep_alive) if ask.stream else Plain(ask, send) as answer:
            await self._answered(ask, granted.owner, answer, scope, receive)

    async def _answered(self, ask: Ask, key: str, answer: Plain | Stream, scope: Scope, receive: Receive) -> None:
        work = asyncio.create_task(self._answer(ask, key, answer))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answer.complete:
                notes(scope)["log"]["disconnected"] = True
                work.cancel()
            await _conclude(work)
        except asyncio.CancelledError:
            # The service ends, and its time to finish answers is over. Not behind the CLI's end, which takes a moment.
            work.cancel()
            await asyncio.sleep(0)
            if not answer.complete:
                await answer.fail(failures.stopped())
        finally:
            # Does nothing to what is done; otherwise this request was cancelled itself, and its CLI has to end.
            gone.cancel()
            work.cancel()

    async def _answer(self, ask: Ask, key: str, answer: Plain | Stream) -> None:
        observed = self._figures.begin(ask.model)
        outcome: str | None = "disconnected"

        async def sink(event: Event) -> None:
            observed.note(event)
            await answer(event)

        try:
            await self._calls.run(ask, key, sink)
            outcome = "ok"
        except ApiError as error:
            outcome = error.code
            await answer.fail(error)
        except Exception:
            outcome = None
            raise
        finally:
            observed.end(outcome)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _conclude(work: asyncio.Task[None]) -> None:
    """Wait for the end of the work, raising what it raised; that it was cancelled is no error."""
    await asyncio.wait({work})
    if not work.cancelled():
        work.result()
