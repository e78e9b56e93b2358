"""Requests per minute of each key: a token bucket per name, in the memory of this process and of no other."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from serving.asgi import Message, Send

MINUTE = 60.0


class Allowance(NamedTuple):
    """What is left of a key's requests: `reset` and `retry` in seconds; a `retry` above zero is a refusal."""

    limit: int
    remaining: int
    reset: float
    retry: float

    def headers(self) -> dict[str, str]:
        """Return the state of the limit by OpenAI's header names, for a refusal also when to try again."""
        headers = {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": duration(self.reset),
        }
        return headers | {"retry-after": str(math.ceil(self.retry))} if self.retry else headers


class Rates:
    """The buckets. They hold a minute's requests and are full at first; so each process allows its own share."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, rpm: int) -> Allowance:
        """Count one request of `name` against `rpm` requests per minute."""
        now = time.monotonic()
        tokens, before = self._buckets.get(name, (rpm, now))
        tokens = min(rpm, tokens + (now - before) * rpm / MINUTE)
        retry = 0.0 if tokens >= 1 else (1 - tokens) * MINUTE / rpm
        if not retry:
            tokens -= 1
        self._buckets[name] = tokens, now
        return Allowance(rpm, int(tokens), (rpm - tokens) * MINUTE / rpm, retry)


def stamped(send: Send, allowance: Allowance) -> Send:
    """Return a `send` that adds the state of the limit to the answer."""
    stamps = [(name.encode(), value.encode()) for name, value in allowance.headers().items()]

    async def send_stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            # An upstream's own limits are about somebody else's key.
            names = {name for name, _ in stamps}
            others = [each for each in message.get("headers", ()) if each[0] not in names]
            message["headers"] = [*others, *stamps]
        await send(message)

    return send_stamped


def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `20ms`, `8.64s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < MINUTE:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    return "{}m{}s".format(*divmod(math.ceil(seconds), 60))
