"""What the instances of the gateway tell one another through Redis about learned routing.

Keys, all below PREFIX:
    route:ROUTE    hash: an instance's random id -> what it saw of that route (`arms.Evidence.export`)
    request:ID     JSON: route, arm, whether it succeeded, quality; for ratings, during a day
Each instance writes its own field only, always whole, and reads the others': nobody overwrites anybody, an exchange may
be repeated or lost, and a Redis that came back empty is filled again. What Redis holds is never trusted to be ours.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import orjson

from llm_call.api import arms
from llm_call.api.arms import Evidence

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from llm_call.api.store import Store

log = logging.getLogger("llm_call.learning")

PREFIX = "llm-call:routing:1:"
"""The number changes when the meaning of what is below it does."""
ROUTE_SECONDS = 30 * 24 * 3600
"""How long Redis keeps a route that nobody uses any more."""
RATING_SECONDS = 24 * 3600
"""How long an answer can be rated."""

Command = tuple[Any, ...]


class Answered(NamedTuple):
    """An answer that can be rated, and what it adds to its arm's quality."""

    route: str
    arm: str
    ok: bool
    quality: float

    def rated(self, rating: float) -> Answered:
        """Return it with a rating of 0..1 for its quality; a failure stays one."""
        return self._replace(quality=float(rating)) if self.ok else self


class Shared:
    """The Redis side of a `Learner`. A Redis that fails, refuses or holds nonsense raises nothing here."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ident = uuid4().hex
        self._reached = False
        self._warned: set[str] = set()

    @property
    def reached(self) -> bool:
        """Whether the last exchange found Redis, and nothing failed since."""
        return self._reached and self._store.available

    async def exchange(self, routes: Mapping[str, Evidence], now: float) -> bool:
        """Merge what the others saw and tell them what they do not know yet; return whether Redis was there."""
        names = list(routes)
        replies = await self._send([("HGETALL", _key(name)) for name in names] or [("PING",)])
        self._reached = replies is not None
        commands: list[Command] = []
        for name, reply in zip(names, replies or (), strict=False):
            if isinstance(reply, dict):
                commands += self._merge(name, routes[name], {_text(key): value for key, value in reply.items()}, now)
        if commands:
            self._reached = await self._send(commands) is not None
        return self._reached

    async def remember(self, answers: Mapping[str, Answered]) -> bool:
        """Let these answers, by request id, be rated through any instance."""
        commands = [
            ("SET", _request(ident), orjson.dumps([*each]), "EX", RATING_SECONDS) for ident, each in answers.items()
        ]
        return await self._send(commands) is not None

    async def swap(self, request_id: str, rating: float) -> Answered | None:
        """Put a rating into an answer's record and return what was there, so that of two at once none counts twice."""
        key = _request(request_id)
        known = self._answered(await self._send([("GET", key)]))
        if known is None:
            return None
        after = orjson.dumps([*known.rated(rating)])

        async def call(redis: Redis) -> list[Any]:
            return [await redis.set(key, after, xx=True, keepttl=True, get=True)]

        return self._answered(await self._store.run(call))

    async def _send(self, commands: Sequence[Command]) -> list[Any] | None:
        """Return the replies, what Redis refused among them as exceptions, or None if it is down."""

        def call(redis: Redis) -> Awaitable[list[Any]]:
            pipeline = redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return pipeline.execute(raise_on_error=False)

        replies = await self._store.run(call)
        for command, reply in zip(commands, replies or (), strict=False):
            if isinstance(reply, Exception):
                self._warn(command[0], f"{command[1]}: {reply}; this part stays unshared until that is put right")
        return replies

    def _merge(self, name: str, route: Evidence, fields: dict[str, bytes], now: float) -> list[Command]:
        key, mine = _key(name), fields.pop(self._ident, b"")
        others = {}
        for field, value in fields.items():
            try:
                others[field] = arms.parse(value)
            except ValueError as error:
                self._warn("field", f"{key}: field {field} is ignored: {error}")
        route.merge(others.values(), now)
        # An instance that is only slow writes its field again when it finds it missing.
        gone = [field for field, document in others.items() if route.outdated(document)]
        own = route.export()
        if mine and not own:
            gone.append(self._ident)
        commands: list[Command] = [("HDEL", key, *gone)] if gone else []
        if own and own != mine:
            commands += [("HSET", key, self._ident, own), ("EXPIRE", key, ROUTE_SECONDS)]
        return commands

    def _answered(self, replies: list[Any] | None) -> Answered | None:
        text = replies[0] if replies else None
        if not isinstance(text, bytes | str):
            return None
        try:
            route, arm, ok, quality = orjson.loads(text)
            types = tuple(map(type, (route, arm, ok, quality)))
            if types == (str, str, bool, float) and 0.0 <= quality <= 1.0:
                return Answered(route, arm, ok, quality)
            fault = "not route, arm, success, quality"
        except (ValueError, TypeError) as error:
            fault = str(error)
        self._warn("request", f"the record of a request is ignored: {fault}")
        return None

    def _warn(self, kind: str, message: str) -> None:
        # Once per kind of fault: the exchange comes every second.
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s", message)


def _key(route: str) -> str:
    return f"{PREFIX}route:{route}"


def _request(ident: str) -> str:
    return f"{PREFIX}request:{ident}"


def _text(field: bytes | str) -> str:
    return field.decode("utf-8", "replace") if isinstance(field, bytes) else field
