"""POST /v1/chat/completions: find the upstream, ask the cache, forward, pass the answer on."""

from __future__ import annotations

import aiohttp

from llm_call.api import cache as answers
from llm_call.api import request, upstreams
from llm_call.api.cache import Cache
from llm_call.api.catalog import LONGEST, Catalog, UnknownModel, Upstream
from llm_call.api.request import ChatRequest
from llm_call.api.sse import ClientGone, Headers, Presence, answer, relay
from llm_call.api.upstreams import Upstreams
from serving.asgi import Receive, Scope, Send, header, notes
from serving.errors import ApiError
from serving.logs import request_id

JSON = "application/json"


class ChatCompletions:
    """The ASGI endpoint. It speaks ASGI itself: a framework's request and response objects would only cost time."""

    def __init__(self, catalog: Catalog, pool: Upstreams, cache: Cache | None, body_limit: int) -> None:
        self._catalog = catalog
        self._pool = pool
        self._cache = cache
        self._body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ApiError, which the application renders."""
        log_fields = notes(scope).setdefault("log", {})
        try:
            chat = await request.read(scope, receive, self._body_limit)
            upstream, model = self._find(chat.model)
            log_fields.update(model=chat.model, upstream=upstream.name, stream=chat.stream)
            key = self._cache_key(scope, chat, upstream, model)
            log_fields["cache"] = "off"
            if key is None:
                await self._forward(upstream, chat, model, receive, send)
            else:
                log_fields["cache"] = await self._through_cache(key, upstream, chat, model, receive, send)
        except ClientGone:
            log_fields["client"] = "gone"

    def _find(self, name: str) -> tuple[Upstream, str]:
        try:
            return self._catalog.find(name)
        except UnknownModel as error:
            hint = f' Perhaps you meant "{error.nearest}".' if error.nearest else " GET /v1/models lists them all."
            message = f'The model "{name[:LONGEST]}" does not exist.{hint}'
            raise ApiError(404, message, code="model_not_found", param="model") from error

    def _cache_key(self, scope: Scope, chat: ChatRequest, upstream: Upstream, model: str) -> str | None:
        """Return the key under which the answer may be kept, or None if the cache has no part in this request."""
        if not self._cache or not self._cache.available or chat.stream or not answers.deterministic(chat.body):
            return None
        if b"no-store" in (header(scope, b"cache-control") or b"").lower():
            return None
        return answers.key({**chat.body, "model": model}, upstream.name)

    async def _through_cache(
        self, key: str, upstream: Upstream, chat: ChatRequest, model: str, receive: Receive, send: Send
    ) -> str:
        """Answer from the cache, or forward and keep the answer; return what the cache did."""
        assert self._cache
        kept = await self._cache.get(key)
        if kept is not None:
            await answer(kept, headers(upstream, "hit", JSON), send)
            return "hit"
        state = "miss" if self._cache.available else "off"
        body = await self._forward(upstream, chat, model, receive, send, state)
        if body is not None:
            await self._cache.put(key, body)
        return state

    async def _forward(
        self, upstream: Upstream, chat: ChatRequest, model: str, receive: Receive, send: Send, cache: str = "off"
    ) -> bytes | None:
        """Pass the request on and the answer back; return the answer if it may be kept."""
        with Presence(receive):
            response = await self._pool.post(upstream, chat.named(model), request_id.get() or "")
            try:
                if response.status != 200:
                    said = await _whole(upstream, response)
                    raise upstreams.refusal(upstream, response.status, said, response.headers)
                kind = response.headers.get("content-type", JSON)
                if chat.stream:
                    await relay(response, headers(upstream, cache, kind), send)
                    return None
                body = await _whole(upstream, response)
                await answer(body, headers(upstream, cache, kind), send)
                return body if kind.startswith(JSON) else None
            finally:
                # Gives the connection back to the pool after a whole answer, and closes it after a part of one.
                response.release()


def headers(upstream: Upstream, cache: str, kind: str) -> Headers:
    """Return the headers of an answer."""
    return [
        (b"content-type", kind.encode("latin-1")),
        (b"x-llm-call-upstream", upstream.name.encode()),
        (b"x-llm-call-cache", cache.encode()),
    ]


async def _whole(upstream: Upstream, response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise upstreams.failure(upstream, error) from error
