"""POST /v1/chat/completions and /v1/embeddings: find the targets, ask the cache, forward, pass the answer on."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from llm_call.api import replay, request
from llm_call.api.cache import Keys
from llm_call.api.call import Call
from llm_call.api.catalog import LONGEST, Route, UnknownModel
from llm_call.api.flights import Flight
from llm_call.api.gateway import Gateway
from llm_call.api.replies import JSON, Streaming
from llm_call.api.request import Asked, Wire
from llm_call.api.sse import Presence, answer
from serving.asgi import Receive, Scope, Send, notes
from serving.body import ClientGone
from serving.errors import ApiError
from serving.event_stream import EVENTS, EventStream, Headers
from serving.keys_file import Key
from serving.logs import request_id

WINDOW = 2
"""How many times the largest entry of the cache a shared stream may run ahead of its slowest listener."""
LEAST_WINDOW_BYTES = 64 * 1024


class Endpoint:
    """The ASGI endpoint. It speaks ASGI itself: a framework's request and response objects would only cost time."""

    def __init__(self, gateway: Gateway, wire: Wire) -> None:
        self._gateway = gateway
        self._wire = wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ApiError, which the application renders."""
        fields = notes(scope).setdefault("log", {})
        status = 500
        call = None
        try:
            asked = await request.read(scope, receive, self._wire, self._gateway.body_limit)
            fields["model"] = asked.model[:LONGEST]
            fields["stream"] = asked.stream
            client = notes(scope).get("grant")
            route = self._find(client, asked)
            call = Call(asked, route, self._gateway.order(route), request_id.get() or "", client)
            keys = self._gateway.cache.keys(scope, call) if self._gateway.cache else None
            with Presence(receive), self._stream(call, send) as out:
                try:
                    await (self._directly(call, out, send) if keys is None else self._shared(call, keys, out, send))
                except ApiError as error:
                    await out.fail(error)
            status = out.status
        except ClientGone:
            status = 499
            fields["client"] = "gone"
        except ApiError as error:
            status = error.status
            if call:
                error.headers.update((name.decode(), value.decode()) for name, value in _told(call))
            raise
        finally:
            if call:
                fields["upstream"] = call.upstream
                fields["cache"] = call.cache
                if call.attempts > 1:
                    fields["attempts"] = call.attempts
                self._gateway.telemetry.ended(call, status)

    def _find(self, client: Key | None, asked: Asked) -> Route:
        name = asked.model
        try:
            route = self._gateway.catalog.find(name)
        except UnknownModel as error:
            hint = f' Perhaps you meant "{error.nearest}".' if error.nearest else " GET /v1/models lists them all."
            message = f'The model "{name[:LONGEST]}" does not exist.{hint}'
            raise ApiError(404, message, code="model_not_found", param="model") from error
        if client and not client.allows(name):
            message = f'This key may not use the model "{name[:LONGEST]}"; GET /v1/models lists those that it may.'
            raise ApiError(403, message, code="model_not_allowed", param="model")
        if client and client.models is not None:
            for param in request.OTHER_MODELS & asked.body.keys():
                message = f'"{param}" could name other models, which this key may not use; leave it out.'
                raise ApiError(403, message, code="model_not_allowed", param=param)
        return route

    def _stream(self, call: Call, send: Send) -> EventStream:
        seconds = self._gateway.keep_alive if call.asked.stream else 0.0
        return EventStream(send, seconds, lambda: _headers(call, EVENTS))

    async def _directly(self, call: Call, out: EventStream, send: Send) -> None:
        """Forward and pass the answer on."""
        reply = await self._gateway.attempts.open(call)
        try:
            if isinstance(reply, Streaming):
                async with aclosing(reply.chunks()) as chunks:
                    await out.relay(_headers(call, reply.kind), chunks)
            else:
                await answer(reply.body, _headers(call, reply.kind), send)
        finally:
            reply.close()

    async def _shared(self, call: Call, keys: Keys, out: EventStream, send: Send) -> None:
        """Answer from the cache, or together with everyone who asks the same at this moment."""
        cache = self._gateway.cache
        assert cache, "there are no keys without a cache"
        name = f"{keys.own}:fresh" if keys.fresh else keys.own
        window = WINDOW * max(cache.entry_bytes, LEAST_WINDOW_BYTES) if keys.streamed else None
        flight, first = self._gateway.flights.join(name, window, partial(self._fly, replace(call), keys))
        with flight:
            began = time.perf_counter()
            call.cache = self._state(flight, first)
            try:
                await flight.head()
            finally:
                call.waited += time.perf_counter() - began
                call.upstream = flight.upstream
                call.cache = self._state(flight, first)
            if first and not flight.kept:
                call.first_byte = time.perf_counter() - call.began
            if flight.kind.startswith(EVENTS) or call.asked.stream:
                async with aclosing(flight.chunks()) as chunks:
                    await out.relay(_headers(call, flight.kind), chunks)
            else:
                await answer(flight.whole or b"", _headers(call, flight.kind), send)

    async def _fly(self, call: Call, keys: Keys, flight: Flight) -> None:
        """Bring the answer that all listeners of `flight` wait for, and keep it."""
        cache = self._gateway.cache
        assert cache, "there are no keys without a cache"
        kept = None if keys.fresh else await cache.get(keys)
        if kept:
            body: bytes | None = kept.body
            if keys.streamed and not kept.streamed:
                body = replay.events(kept.body, include_usage=call.asked.wants_usage)
            if body:
                flight.begin(kept.upstream, EVENTS if keys.streamed else JSON, kept=True)
                await flight.add(body)
                flight.finish()
                return
        try:
            reply = await self._gateway.attempts.open(call)
        finally:
            flight.upstream = call.upstream
        try:
            flight.begin(reply.target.upstream.name, reply.kind)
            async with aclosing(reply.chunks()) as chunks:
                async for chunk in chunks:
                    await flight.add(chunk)
        finally:
            reply.close()
        flight.finish()
        body = flight.whole
        if body is None:
            return
        if not keys.streamed or (reply.kind.startswith(EVENTS) and body.rstrip().endswith(b"data: [DONE]")):
            await cache.put(keys, reply.target.upstream.name, body)

    def _state(self, flight: Flight, first: bool) -> str:
        cache = self._gateway.cache
        if flight.kept or not first:
            return "hit"
        return "miss" if cache and cache.available else "off"


def _headers(call: Call, kind: str) -> Headers:
    return [(b"content-type", kind.encode("latin-1")), *_told(call)]


def _told(call: Call) -> Headers:
    upstream = [(b"x-llm-call-upstream", call.upstream.encode())] if call.upstream else []
    return [
        *upstream,
        (b"x-llm-call-cache", call.cache.encode()),
        (b"x-llm-call-overhead-ms", b"%.2f" % (call.overhead * 1000)),
    ]
