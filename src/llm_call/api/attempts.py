"""Asks the upstreams of a request one after another until one of them answers: retries, fallbacks, breakers."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping

import aiohttp

from llm_call.api import opening, upstreams
from llm_call.api.breaker import Breakers, Guard
from llm_call.api.call import Call
from llm_call.api.catalog import Target
from llm_call.api.counting import Counting
from llm_call.api.local.refusals import BY_US, Ended
from llm_call.api.replies import JSON, Count, Streaming, Whole, malformed
from llm_call.api.upstreams import Response, Upstreams
from serving.errors import ApiError

log = logging.getLogger("llm_call.attempts")

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 4.0
"""Pauses double from the first to the longest, each shortened by chance; who asks for a longer one is not asked again."""
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same upstream may answer otherwise a moment later."""
ELSEWHERE = AGAIN | {401, 402, 403, 404, 405, 501}
"""Statuses that another upstream may not have: its own load, key, account and models. 400 is the request's own fault."""
UNLOADABLE = re.compile(
    r"\bmodel\b.*\bfailed to load\b|\b(?:unable to load|error loading|failed to load) model\b"
    r"|\bmodel requires more system memory\b",
    re.IGNORECASE,
)
"""What servers of models say of one that they cannot load (the first llama-server as a router, the rest Ollama and its
runner): a moment later it is no better, and each attempt loads it anew."""

Outcome = Callable[[Call, Target, bool, float], None]
"""Called with the end of each attempt: whether it succeeded, and its seconds."""


class Failure(Exception):
    """An attempt that failed: what to tell the client, and what may help. `delay`: seconds that the upstream asked for.

    `sick`: breakers hear of it; `answered`: there was an answer, so it is the model's fault rather than the server's.
    """

    def __init__(
        self, error: ApiError, *, again: bool, elsewhere: bool, sick: bool, answered: bool = True, delay: float = 0.0
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        self.elsewhere = elsewhere
        self.sick = sick
        self.answered = answered
        self.delay = delay


class Attempts:
    """`outcome` hears of every attempt, `count` of every answer at its end."""

    def __init__(self, pool: Upstreams, breakers: Breakers, outcome: Outcome, count: Count) -> None:
        self._counting = Counting()
        self._count = count
        self._pool = pool
        self._breakers = breakers
        self._outcome = outcome

    async def open(self, call: Call) -> Whole | Streaming:
        """Return the first answer that is to be had, a stream with its first bytes.

        Raises ApiError: that of the last upstream that was asked.
        """
        last: ApiError | None = None
        refused: ApiError | None = None
        for target in call.targets:
            if target.upstream.lacks_key:
                last = last or upstreams.not_configured(target.upstream)
                continue
            if unfit := upstreams.unfit(target, call.asked):
                last = last or unfit
                if target is call.route.targets[0] and not call.route.learned:
                    break  # it was named itself: the request's own fault
                continue
            guard = self._breakers.of(target)
            if closed := guard.refusal():
                refused = refused or closed
                continue
            call.upstream = target.upstream.name
            try:
                return await self._persist(call, target, guard)
            except Failure as failure:
                last = failure.error
                if not failure.elsewhere:
                    break
        error = last or refused
        assert error, "a route has targets"
        raise error

    async def _persist(self, call: Call, target: Target, guard: Guard) -> Whole | Streaming:
        """Ask one upstream, again where that may help. Raises Failure."""
        pause = FIRST_PAUSE_SECONDS
        for left in range(target.retries, -1, -1):
            try:
                return await self._once(call, target, guard)
            except Failure as failure:
                wait = max(pause * random.uniform(0.5, 1.0), failure.delay)
                if not left or not failure.again or wait > LONGEST_PAUSE_SECONDS:
                    raise
                log.info("asking %s again in %.2f s: %s", target.upstream.name, wait, failure)
                await asyncio.sleep(wait)
                call.waited += wait
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                if guard.refusal():
                    raise
        msg = "the last attempt returns or raises"
        raise AssertionError(msg)

    async def _once(self, call: Call, target: Target, guard: Guard) -> Whole | Streaming:
        call.attempts += 1
        began = time.perf_counter()
        try:
            reply = await self._ask(call, target, guard, began)
        except Failure as failure:
            call.waited += time.perf_counter() - began
            if failure.sick:
                guard.failed(failure.error, answered=failure.answered)
            elif failure.error.status == 429:
                guard.abandoned()
            else:
                guard.succeeded()
            if failure.elsewhere:
                # Otherwise it was the request's fault, and says nothing of the upstream.
                self._outcome(call, target, False, time.perf_counter() - began)
            raise
        except BaseException:
            guard.abandoned()
            raise
        guard.succeeded()
        return reply

    async def _ask(self, call: Call, target: Target, guard: Guard, began: float) -> Whole | Streaming:
        response = None
        try:
            response = await self._post(target, call)
            if response.status != 200:
                raise _refused(target, response.status, response.headers, await response.read())
            if call.asked.stream:
                first = await opening.first(response.content)
                if not first:
                    raise aiohttp.ClientPayloadError
                if refused := opening.failure(first):
                    raise _refused(target, refused[0], response.headers, refused[1])
                return self._streaming(call, target, guard, response, first, began)
            body = await response.read()
            now = time.perf_counter()
        except (aiohttp.ClientError, TimeoutError) as error:
            if response is not None:
                response.release()
            raise _broken(target, error, answered=response is not None) from error
        except BaseException:
            if response is not None:
                response.release()
            raise
        call.waited += now - began
        call.first_byte = now - call.began
        kind = response.headers.get("content-type", JSON)
        fault = malformed(target, kind, body)
        if fault:
            raise Failure(fault, again=True, elsewhere=True, sick=True)
        return Whole(
            call, target, kind, body, lambda whole: self._outcome(call, target, whole, now - began), self._count
        )

    async def _post(self, target: Target, call: Call) -> Response:
        """Send the request; once more without asking for usage where that may be what was refused."""
        call.counting = self._counting.wanted(call.asked, target)
        response = await self._pool.post(target, call)
        if not call.counting or not self._counting.doubtful(target, response.status):
            return response
        await response.read()
        call.counting = False
        response = await self._pool.post(target, call)
        if response.status == 200:
            self._counting.refused(target)
        return response

    def _streaming(
        self,
        call: Call,
        target: Target,
        guard: Guard,
        response: Response,
        first: bytes,
        began: float,
    ) -> Streaming:
        now = time.perf_counter()
        call.waited += now - began
        call.first_byte = now - call.began

        def ended(whole: bool) -> None:
            if not whole and not target.upstream.recipe:  # a local model that ended is left alone already
                guard.failed(upstreams.broke_off(target.upstream), answered=True)
            self._outcome(call, target, whole, now - began)

        return Streaming(call, target, response, first, ended, self._count)


def _refused(target: Target, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    error = upstreams.refusal(target.upstream, status, body, headers)
    # Anthropic's and OpenAI's own clients, and so our Claude proxy, heed this header.
    hopeless = headers.get("x-should-retry") == "false" or bool(UNLOADABLE.search(error.message))
    ours = target.upstream.kind == "claude-proxy"
    return Failure(
        error,
        again=status in AGAIN and not hopeless,
        # 403 of our own proxy is about what the client may do, not about the gateway's key.
        elsewhere=(status in ELSEWHERE or not 400 <= status < 500) and not (ours and status == 403),
        # Our own proxy lives if it answers; that a client's tools ruin its own request is no reason to shut others out.
        # A local model that is not asked is left alone already.
        sick=not 400 <= status < 500 and not ours and BY_US not in headers,
        delay=_seconds(headers.get("retry-after")),
    )


def _broken(target: Target, error: Exception, *, answered: bool) -> Failure:
    unmade = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    # What may have begun is not begun again where it costs minutes, money, or has tools at work.
    again = unmade or (target.upstream.kind != "claude-proxy" and not isinstance(error, TimeoutError))
    told = upstreams.failure(target.upstream, error)
    if isinstance(error, Ended):
        # One crash fails all requests that were on their way; when it comes back is not the breaker's business.
        return Failure(told, again=True, elsewhere=True, sick=False, delay=error.seconds)
    return Failure(told, again=again, elsewhere=True, sick=True, answered=answered)


def _seconds(text: str | None) -> float:
    """Return what a Retry-After asks for; 0 for none, and for a date: those are not used between services."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
