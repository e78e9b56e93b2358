"""Answers to deterministic requests, kept in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import orjson

from llm_call.api.call import Call
from llm_call.api.request import encode
from llm_call.api.store import Store
from serving.asgi import Scope, joined
from serving.keys_file import scope_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "llm-call:answer:3:"
"""The number changes when the meaning of an entry does."""
WHOLE = b"whole"
STREAM = b"stream"
SHARED = sha256(b"shared").digest()
"""The scope of everyone where all tenants share their answers."""


@dataclass(frozen=True)
class Kept:
    """An answer of the cache: the upstream that gave it, whether it is a stream's bytes, and the bytes."""

    upstream: str
    streamed: bool
    body: bytes


@dataclass(frozen=True)
class Keys:
    """Where the answer to a request is kept: the whole document, and the bytes of the same asked for as a stream."""

    whole: str
    stream: str
    streamed: bool
    fresh: bool
    """Whether the client wants an answer that was not kept (`cache-control: no-cache`)."""

    @property
    def own(self) -> str:
        """The key under which this very request's answer is kept."""
        return self.stream if self.streamed else self.whole


class Cache:
    """`get` and `put` never raise. `ttl` in seconds; an answer of more than `entry_bytes` is not kept.

    An answer is found by those only who have the scope of the key that asked (`serving.keys_file.Key`), unless `shared`.
    """

    def __init__(self, store: Store, ttl: int, entry_bytes: int, *, shared: bool = False) -> None:
        self._store = store
        self._shared = shared
        self._ttl = ttl
        self.entry_bytes = entry_bytes

    @property
    def available(self) -> bool:
        """Whether it is worth asking."""
        return self._store.available

    def keys(self, scope: Scope, call: Call) -> Keys | None:
        """Return where the answer may be kept, or None if the cache has no part in this request."""
        asked = call.asked
        if not self.available or not asked.deterministic or _acts(call):
            return None
        directives = joined(scope, b"cache-control").lower()
        if b"no-store" in directives:
            return None
        # The same request gets the same key, however its JSON was written and whichever alias named the model.
        relevant = {
            name: value for name, value in asked.body.items() if name not in ("model", "stream", "stream_options")
        }
        place = [[each.upstream.name, each.upstream_name] for each in call.route.targets]
        canonical = encode([asked.wire, place, relevant], orjson.OPT_SORT_KEYS)
        # The scope has a fixed length, so that no request looks like one of another scope.
        digest = sha256(self._scope(call) + canonical).hexdigest()
        options = sha256(encode(asked.body.get("stream_options"), orjson.OPT_SORT_KEYS)).hexdigest()[:8]
        return Keys(PREFIX + digest, f"{PREFIX}{digest}:{options}", asked.stream, b"no-cache" in directives)

    def _scope(self, call: Call) -> bytes:
        if self._shared:
            return SHARED
        return scope_of(call.client)

    async def get(self, keys: Keys) -> Kept | None:
        """Return the kept answer, or None. Who asks for a stream may get a whole answer, not the other way round."""
        names = [keys.stream, keys.whole] if keys.streamed else [keys.whole]

        async def read(redis: Redis) -> Sequence[object]:
            return await redis.mget(names)

        for value in await self._store.run(read) or ():
            kept = _unpack(value)
            if kept:
                return kept
        return None

    async def put(self, keys: Keys, upstream: str, body: bytes) -> None:
        """Keep an answer, unless it is too big."""
        if len(body) > self.entry_bytes:
            return
        value = b"%b %b\n%b" % (STREAM if keys.streamed else WHOLE, upstream.encode(), body)

        async def write(redis: Redis) -> object:
            return await redis.set(keys.own, value, ex=self._ttl)

        await self._store.run(write)


def _acts(call: Call) -> bool:
    """Tell whether more happens than an answer: a conversation goes on, or the client's tools work."""
    if "session_id" in call.asked.body:
        return True
    options = call.client.options if call.client else {}
    return bool(options) and any(target.upstream.kind == "claude-proxy" for target in call.route.targets)


def _unpack(value: object) -> Kept | None:
    if not isinstance(value, bytes):
        return None
    head, end, body = value.partition(b"\n")
    kind, _, upstream = head.partition(b" ")
    if not end or kind not in (WHOLE, STREAM):
        return None
    return Kept(upstream.decode("utf-8", "replace"), kind == STREAM, body)
