"""Answers to deterministic requests, kept in Redis. A Redis that is down costs a request nothing, after the first."""

from __future__ import annotations

import asyncio
import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

from llm_call.api.request import encode
from serving.settings import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("llm_call.cache")

PREFIX = "llm-call:answer:1:"
"""The number changes when the meaning of an entry does."""
ENTRY_BYTES = 1024 * 1024
SOCKET_SECONDS = 0.25
"""The most that a hanging Redis may delay the one request that finds out."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to reach a Redis that is down; the last one repeats."""


def key(body: dict[str, Any], upstream: str) -> str:
    """Return the Redis key of a request's answer: the same for the same request, however its JSON was written."""
    relevant = {name: value for name, value in body.items() if name != "stream"}
    canonical = encode([upstream, relevant], orjson.OPT_SORT_KEYS)
    return PREFIX + sha256(canonical).hexdigest()


def deterministic(body: dict[str, Any]) -> bool:
    """Tell whether asking again ought to give the same answer."""
    temperature = body.get("temperature")
    return (temperature == 0 and temperature is not False) or body.get("seed") is not None


class CacheDown(Exception):
    """Redis does not answer; shown by readiness."""


class Cache:
    """`get` and `put` never raise. Once Redis fails they do nothing until a task in the background reached it again."""

    def __init__(self, redis: Redis, ttl: int) -> None:
        self._redis = redis
        self._ttl = ttl
        self._fault: str | None = None
        self._recovery: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether it is worth asking."""
        return self._fault is None

    async def get(self, name: str) -> bytes | None:
        """Return the kept answer, or None."""
        try:
            async with asyncio.timeout(SOCKET_SECONDS):
                value = await self._redis.get(name)
        except Exception as error:
            self._fail(error)
            return None
        return value if isinstance(value, bytes) else None

    async def put(self, name: str, answer: bytes) -> None:
        """Keep an answer, unless it is too big."""
        if len(answer) > ENTRY_BYTES or not self.available:
            return
        try:
            async with asyncio.timeout(SOCKET_SECONDS):
                await self._redis.set(name, answer, ex=self._ttl)
        except Exception as error:
            self._fail(error)

    async def check(self) -> None:
        """Raise CacheDown if Redis does not answer now."""
        try:
            async with asyncio.timeout(SOCKET_SECONDS):
                await self._redis.ping()
        except Exception as error:
            self._fail(error)
            raise CacheDown(_describe(error)) from error

    async def close(self) -> None:
        """End the connections."""
        if self._recovery:
            self._recovery.cancel()
        await self._redis.aclose()

    def _fail(self, error: Exception) -> None:
        if self._fault is None:
            self._fault = _describe(error)
            log.warning("the cache is off until Redis answers: %s", self._fault)
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        attempt = 0
        while self._fault is not None:
            await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
            attempt += 1
            try:
                async with asyncio.timeout(SOCKET_SECONDS):
                    await self._redis.ping()
            except Exception as error:
                self._fault = _describe(error)
            else:
                self._fault = None
                log.info("the cache is back")


def connect(url: str, password: Secret | None, ttl: int) -> Cache:
    """Return a cache at `url`; connects at the first use."""
    # A tenth of the process's start goes into this import: only for those who configured a cache.
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
    return Cache(redis, ttl)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SOCKET_SECONDS:g} s"
    return (str(error) or type(error).__name__).rstrip(".")
