"""Usage of streams that is asked for on the gateway's own account, for its metrics, and hidden from the client."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import orjson

from llm_call.api.catalog import Target
from llm_call.api.request import Asked

REFUSALS = frozenset({400, 422})
"""How servers answer an option that they do not know."""
AGAIN_SECONDS = 3600.0
"""How long one that refused it is not asked for it."""
EVENT = re.compile(rb".+?(?:\n\n|\n\r\n|\r\r|\Z)", re.DOTALL)
DATA = re.compile(rb"data: ?(\{[^\r\n]*\})\s*")
NULL = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')


class Counting:
    """Which models take `stream_options.include_usage`; by configured names, so that there are few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[tuple[str, str], float] = {}
        self._taken: set[tuple[str, str]] = set()

    def wanted(self, asked: Asked, target: Target) -> bool:
        """Tell whether the usage is to be asked for, because the client does not."""
        if not asked.uncounted:
            return False
        until = self._refused.get(_name(target))
        return until is None or self._clock() > until

    def doubtful(self, target: Target, status: int) -> bool:
        """Tell whether an answer with this status may be about the option alone; one of 200 says that it is taken."""
        if status == 200:
            self._taken.add(_name(target))
        return status in REFUSALS and _name(target) not in self._taken

    def refused(self, target: Target) -> None:
        """The same request passed without the option."""
        self._refused[_name(target)] = self._clock() + AGAIN_SECONDS


def _name(target: Target) -> tuple[str, str]:
    return target.upstream.name, target.model


def hidden(piece: bytes) -> bytes:
    """Return whole events without what they hold because of `include_usage`: its own chunk, and `"usage": null` in others."""
    if b'"usage"' not in piece:
        return piece
    return b"".join(map(_event, EVENT.findall(piece)))


def _event(event: bytes) -> bytes:
    found = DATA.fullmatch(event) if b'"usage"' in event else None
    document = _parsed(found[1]) if found else {}
    if not found or "usage" not in document:
        return event
    if document["usage"] is not None:
        return b"" if document.get("choices") == [] else event
    del document["usage"]
    for null in NULL.finditer(event):
        less = event[: null.start()] + event[null.end() :]
        shown = DATA.fullmatch(less)
        if shown and _parsed(shown[1]) == document:
            return less
    return event


def _parsed(text: bytes) -> dict[str, object]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
