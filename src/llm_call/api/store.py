"""The connection to Redis that all parts share. A Redis that is down costs a request nothing, after the first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from llm_call.api.redis_login import Login, NoPassword
from serving.health import NotConfigured

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

    Without a Redis (None) it never does anything. `login` is named where Redis refuses it.
    """

    def __init__(self, redis: Redis | None, login: Login | None = None) -> None:
        self._redis = redis
        self._login = login
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
            self._note(error)
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
                self._note(error)
            else:
                self._fault = None
                log.info("Redis is back")

    def _note(self, error: Exception) -> None:
        """Keep why Redis cannot be used, and log it when that is news; of the login only the log speaks."""
        fault = _describe(error)
        if fault != self._fault:
            self._fault = fault
            login = f" ({self._login or 'no password is configured'})" if _concerns_login(error) else ""
            log.warning("working without Redis until it answers: %s%s", fault, login)


def connect(url: str, login: Login | None) -> Store:
    """Return a store at `url`; connects at the first use. Without a URL it is a store of nothing."""
    if not url:
        return Store(None)
    # A tenth of the process's start goes into this import: only for those who configured Redis.
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.credentials import CredentialProvider

    class FreshCredentials(CredentialProvider):
        async def get_credentials_async(self) -> Any:
            return login.credentials() if login else ()

    redis = Redis.from_url(
        url,
        credential_provider=FreshCredentials() if login else None,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return Store(redis, login)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SOCKET_SECONDS:g} s"
    return (str(error) or type(error).__name__).rstrip(".")


def _concerns_login(error: Exception) -> bool:
    from redis.exceptions import AuthenticationError, NoPermissionError  # loaded by now: it has failed

    # The library hides a refusal of AUTH in a plain ConnectionError.
    causes = [error, error.__cause__, error.__context__]
    return any(isinstance(each, NoPassword | AuthenticationError | NoPermissionError) for each in causes)
