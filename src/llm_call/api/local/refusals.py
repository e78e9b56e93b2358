"""When a local model cannot answer: in the shapes that the gateway knows of other upstreams."""

from __future__ import annotations

import math
from collections.abc import Mapping

import aiohttp
import orjson

BY_US = "x-llm-call-local"
"""A header inside the gateway only: the answer is its own, so the upstream's breaker need not hear of it."""


class Refused(Exception):
    """It is not asked; the text is for the client. `seconds`: when to try again, 0 where nobody can tell.

    `hopeless`: asking again at once will not help. `passing`: nothing is wrong with the model.
    """

    def __init__(
        self, message: str, code: str, *, seconds: float = 0.0, hopeless: bool = True, passing: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.seconds = seconds
        self.hopeless = hopeless
        self.passing = passing


class Ended(aiohttp.ClientPayloadError):
    """llama-server ended while a request was on its way; the text says how, and quotes nothing.

    `seconds`: when it is started again.
    """

    seconds = 0.0


class Refusal:
    """What the gateway uses of an aiohttp response, for a request that is refused."""

    def __init__(self, refused: Refused) -> None:
        self.status = 503
        headers = {"content-type": "application/json", BY_US: "1"}
        if refused.seconds:
            headers["retry-after"] = str(math.ceil(refused.seconds))
        if refused.hopeless:
            headers["x-should-retry"] = "false"
        self.headers: Mapping[str, str] = headers
        self.content = self
        self._body = orjson.dumps({"error": {"message": refused.message, "type": "server_error", "code": refused.code}})

    async def read(self) -> bytes:
        """Return the whole body."""
        return self._body

    async def readany(self) -> bytes:
        """Nothing reads a refusal in pieces."""
        return b""

    def release(self) -> None:
        """There is no connection."""
