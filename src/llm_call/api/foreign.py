"""Providers without OpenAI's wire, such as Vertex AI and Bedrock: the library litellm asks them. An optional extra.

It is imported with the first upstream of the kind "litellm" only: it takes seconds and 170 MB.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import orjson

from llm_call.api.call import Call
from llm_call.api.catalog import Target

log = logging.getLogger("llm_call.foreign")

OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""Without this its import asks the network for a list of prices."""
LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")
LEFT_OUT = frozenset({"model", "stream"})
PASSED = frozenset(
    {
        "messages",
        "input",
        "temperature",
        "top_p",
        "n",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
    }
    | {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "seed",
        "tools",
        "tool_choice",
        "functions",
    }
    | {"function_call", "parallel_tool_calls", "response_format", "stream_options", "modalities", "audio", "prediction"}
    | {"reasoning_effort", "verbosity", "web_search_options", "encoding_format", "dimensions"}
)
"""The members that are passed on as options of the library: OpenAI's own. Its others say where and with which key to ask."""


def lack() -> str:
    """Return what is missing for upstreams of this kind; empty when nothing is."""
    if importlib.util.find_spec("litellm"):
        return ""
    return "needs the package litellm, which is not installed: pip install -r requirements/litellm.txt"


async def load() -> Any:
    """Return the library, imported in a thread: requests go on meanwhile."""
    os.environ |= OFFLINE
    library: Any = await asyncio.to_thread(importlib.import_module, "litellm")
    library.telemetry = False
    library.suppress_debug_info = True
    for name in LOGGERS:
        # Its own handlers write lines that are no JSON; below a warning it says what is asked, which is nobody's business.
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    return library


async def post(library: Any, target: Target, call: Call) -> Answered:
    """Ask and return what looks like an HTTP response, whatever its status. Raises TimeoutError."""
    asked, upstream = call.asked, target.upstream
    options = {name: value for name, value in asked.body.items() if name in PASSED}
    if others := {name: value for name, value in asked.body.items() if name not in PASSED | LEFT_OUT}:
        options["extra_body"] = others  # so that they are data, and never an address or a key
    if call.counting:
        options["stream_options"] = {**(asked.body.get("stream_options") or {}), "include_usage": True}
    options |= {"model": target.upstream_name, "timeout": target.timeout, "num_retries": 0, "max_retries": 0}
    if upstream.base_url:
        options["api_base"] = upstream.base_url
    if upstream.api_key:
        options["api_key"] = upstream.api_key.reveal()
    try:
        async with asyncio.timeout(target.timeout):
            if asked.wire == "embeddings":
                return Answered(200, "application/json", _json(await library.aembedding(**options)))
            answer = await library.acompletion(**options, stream=asked.stream)
    except TimeoutError:
        raise
    except Exception as error:
        return _refusal(error)
    if asked.stream:
        return Answered(200, "text/event-stream", b"", _events(answer, target.timeout))
    return Answered(200, "application/json", _json(answer))


class Answered:
    """What the gateway uses of an aiohttp response. Reading raises what aiohttp would raise."""

    def __init__(self, status: int, kind: str, body: bytes, events: AsyncIterator[bytes] | None = None) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": kind}
        self.content = self
        self._body = body
        self._events = events

    async def read(self) -> bytes:
        """Return the whole body."""
        return self._body

    async def readany(self) -> bytes:
        """Return the next bytes of a stream, none at its end."""
        assert self._events, "only streams are read in pieces"
        return await anext(self._events, b"")

    def release(self) -> None:
        """Let go; the library ends its own connections."""
        self._events = None


async def _events(chunks: Any, silence: float) -> AsyncIterator[bytes]:
    try:
        iterator = aiter(chunks)
        while True:
            async with asyncio.timeout(silence):
                chunk = await anext(iterator, None)
            if chunk is None:
                break
            yield b"data: " + _json(chunk) + b"\n\n"
    except TimeoutError:
        raise
    except Exception as error:
        log.warning("litellm: %s", type(error).__name__)
        raise aiohttp.ClientPayloadError from error
    yield b"data: [DONE]\n\n"


def _json(answer: Any) -> bytes:
    return orjson.dumps(answer.model_dump(exclude_none=True))


def _refusal(error: Exception) -> Answered:
    status = getattr(error, "status_code", None)
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    body = orjson.dumps({"error": {"message": message, "type": type(error).__name__}})
    return Answered(status if isinstance(status, int) and status >= 400 else 502, "application/json", body)
