"""Whether the CLI will be accepted by its provider, as far as that can be told without asking the provider."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from claude_proxy import failures
from claude_proxy.sandbox import port
from claude_proxy.settings import Settings
from serving.settings import reason

FILE = ".credentials.json"
ANSWER_BYTES = 65536
EXPIRY_LEEWAY = 60.0


class Login:
    """The health check of the credential, wherever it is."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def usable(self) -> None:
        """Health check: raises when requests to the provider are known to fail."""
        if self._settings.egress:
            await ask_egress(self._settings.base_url)
        elif self._settings.login is not None:
            fault = folder_fault(self._settings.login, time.time())
            if fault:
                raise RuntimeError(fault)
        elif self._settings.credential is None:
            msg = f"no credential for the CLI: {failures.LOGIN_HINT}"
            raise RuntimeError(msg)


def folder_fault(folder: Path, now: float) -> str:
    """Return what is wrong with a mounted login folder; empty when nothing is."""
    path = folder / FILE
    again = "run `claude` and `/login` on the host with this folder as its configuration, then try again"
    try:
        login = orjson.loads(path.read_bytes())["claudeAiOauth"]
        token, refresh, expires = login["accessToken"], login.get("refreshToken"), login.get("expiresAt")
    except OSError as error:
        return f"no login in {path}: {reason(error)}; {again}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path} holds no login; {again}"
    if not token or not os.access(folder, os.W_OK):
        fault = "cannot be written to, so a refreshed token would be lost; mount it writable for uid"
        return f"{path} holds no login; {again}" if not token else f"{folder} {fault} {os.getuid()}"
    seconds = expires / 1000 if isinstance(expires, int | float) else now + 2 * EXPIRY_LEEWAY
    if not refresh and seconds < now:
        when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
        return f"the login in {path} expired at {when} and cannot be refreshed; {again}"
    return ""


async def ask_egress(base_url: str) -> None:
    """Ask the egress gateway's GET /health; raises RuntimeError or OSError when requests through it will fail.

    A gateway that has no such path is taken for a good one.
    """
    status, document = await _get(f"{base_url.rstrip('/')}/health")
    if status != 404 and not 200 <= status < 300:
        msg = f"the egress gateway at {base_url} answers {status}; see its log"
        raise RuntimeError(msg)
    if document.get("credential") is False:
        msg = "the egress gateway holds no credential; put the provider's key into secrets/egress/anthropic_api_key"
        raise RuntimeError(msg)


async def _get(url: str) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, port(url), ssl=tls or None)
    except OSError as error:
        msg = f"the egress gateway at {parts.netloc} cannot be reached: {reason(error)}; is it running?"
        raise RuntimeError(msg) from error
    try:
        writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = await _read(reader)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    with contextlib.suppress(ValueError):
        document = orjson.loads(body)
        if isinstance(document, dict):
            return status, document
    return status, {}


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while len(answer) < ANSWER_BYTES and (chunk := await reader.read(ANSWER_BYTES)):
        answer += chunk
    return answer
