"""One request on its way: what was asked, where it may go, and how long it waited there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_call.api.catalog import Route, Target
from llm_call.api.request import Asked
from llm_call.api.usage import Usage
from serving.keys_file import Key


@dataclass(slots=True)
class Call:
    """Times in seconds; `waited` is what others took, so that the rest is the gateway's own overhead."""

    asked: Asked
    route: Route
    targets: Sequence[Target]
    ident: str
    client: Key | None = None
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    first_byte: float | None = None
    upstream: str = ""
    cache: str = "off"
    attempts: int = 0
    usage: Usage | None = None
    counting: bool = False
    """Whether the upstream is asked for the usage of a stream although the client did not ask."""

    def sent(self, target: Target, **more: Any) -> bytes:
        """Return the request as `target` gets it; `more` are further members."""
        return self.asked.named(target.upstream_name, counting=self.counting, **more)

    @property
    def overhead(self) -> float:
        """Seconds since the request was read that the gateway used itself."""
        return time.perf_counter() - self.began - self.waited
