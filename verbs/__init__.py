"""The verbs. Each body tells what happens; how it happens lives in shipyard/, which is imported as far as it is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from invoke import task

import shipyard
from shipyard import console
from shipyard.errors import ShipyardError

HELP = {
    "detach": "return when the stack is healthy instead of streaming its logs",
    "diff": "another overlay: show what differs there",
    "follow": "go on until Ctrl-C",
    "image": "an image of docker/images.toml; may be given several times (default: all)",
    "json": "print one JSON document on stdout",
    "no-cache": "run every step again",
    "overlay": "prod or dev",
    "platform": 'comma-separated platforms, or "all" (default: the engine\'s own)',
    "refresh": "decide again, with today's packages or the hub's newest image",
    "service": "one service (default: all)",
    "tail": "lines per service",
    "target": "prod, dev or debug",
    "volumes": "remove the stack's data too",
}


def verb(*options: str, name: str | None = None) -> Callable[[Callable[..., None]], Any]:
    """An Invoke task whose toolkit errors become a clean exit: message on stderr, the error's own exit code."""

    def decorate(body: Callable[..., None]) -> Any:
        @wraps(body)
        def clean(*positional: Any, **named: Any) -> None:
            try:
                body(*positional, **named)
            except ShipyardError as failed:
                if os.environ.get("SHIPYARD_DEBUG"):
                    raise
                console.error(str(failed))
                sys.exit(failed.exit_code)
            except KeyboardInterrupt:
                console.error("interrupted")
                sys.exit(130)

        lists = ["image"] if "image" in options else []
        return task(name=name, iterable=lists, help={each: HELP[each] for each in options})(clean)

    return decorate


def here() -> tuple[Any, Any]:
    """The checkout that these files belong to, and the engine it uses (started if there is none)."""
    return shipyard.config.load(Path(__file__).parents[1]), shipyard.engine.find()
