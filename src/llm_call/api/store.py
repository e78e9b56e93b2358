"""The connection to Redis that all parts share. A Redis that is down costs a request nothing, after the first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from serving.health import NotConfigured
from serving.settings import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("llm_call.store")

SOCKET_SECONDS = 0.25
"""The most that a hanging Redis may delay the one request that finds out."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to reach a Redis that is down; the last one repeats."""

Value = TypeVar("Value")


UNSET = "REDIS_URL is not set"


class StoreDown(Exception):
    """Redis does not answer; shown by readiness."""


class Store:
    """`run` never raises. Once Redis fails it does nothing until a task in the background reached it again.

    Without a Redis (None) it never does anything.
    """

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._fault: str | None = None if redis else UNSET
        self._recovery: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether it is worth asking."""
        return self._fault is None

    async def run(self, call: Callable[[Redis], Awaitable[Value]]) -> Value | None:
        """Return what `call` makes of Redis, or None if Redis is down or fails."""
        if self._redis is None or self._fault is not None:
            return None
        try:
            async with asyncio.timeout(SOCKET_SECONDS):
                return await call(self._redis)
        except Exception as error:
            self._fail(error)
            return None

    async def check(self) -> None:
        """Raise StoreDown if Redis does not answer now, and NotConfigured if there is none."""
        if self._redis is None:
            raise NotConfigured(UNSET)
        try:
            async with asyncio.timeout(SOCKET_SECONDS):
                await self._redis.ping()
        except Exception as error:
            self._fail(error)
            raise StoreDown(_describe(error)) from error

    async def close(self) -> None:
        """End the connections."""
        if self._recovery:
            self._recovery.cancel()
        if self._redis:
            await self._redis.aclose()

    def _fail(self, error: Exception) -> None:
        if self._fault is None:
            self._fault = _describe(error)
            log.warning("working without Redis until it answers: %s", self._fault)
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        assert self._redis, "what is not there does not fail"
        attempt = 0
        while self._fault is not None:
            await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
            attempt += 1
            try:
                async with asyncio.timeout(SOCKET_SECONDS):
                    # Connections of the pool that ended with the old Redis would fail one by one.
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
                    await self._redis.ping()
            except Exception as error:
                self._fault = _describe(error)
            else:
                self._fault = None
                log.info("Redis is back")


def connect(url: str, password: Secret | None) -> Store:
    """Return a store at `url`; connects at the first use. Without a URL it is a store of nothing."""
    if not url:
        return Store(None)
    # A tenth of the process's start goes into this import: only for those who configured Redis.
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    redis = Redis.from_url(
        url,
        password=password.reveal() if password else None,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return Store(redis)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SOCKET_SECONDS:g} s"
    return (str(error) or type(error).__name__).rstrip(".")
