"""The response of a local model, as the gateway uses it."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from llm_call.api.local.process import Process
from llm_call.api.local.resident import Resident


class Served:
    """A response of a local model. Its request has ended when it was read or released."""

    def __init__(self, response: aiohttp.ClientResponse, running: Process, resident: Resident) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.content = self
        self._response, self._running, self._resident = response, running, resident
        self._over = False

    async def read(self) -> bytes:
        """Return the whole body. Raises what aiohttp raises, and Ended."""
        try:
            return await self._response.read()
        except aiohttp.ClientError as error:
            raise await self._resident.explain(self._running, error) from None
        finally:
            self.release()

    async def readany(self) -> bytes:
        """Return the next bytes of a stream, none at its end. Raises what aiohttp raises, and Ended."""
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError as error:
            raise await self._resident.explain(self._running, error) from None

    def release(self) -> None:
        """Give the connection back; the model may be unloaded from now on."""
        self._response.release()
        if not self._over:
            self._over = True
            self._resident.leave()
