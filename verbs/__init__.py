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
from shipyard import console, signals
from shipyard.errors import ShipyardError, of_the_disk

HELP = {
    "allow-detached": "release a commit that no branch names",
    "allow-older": "accept a moving tag that is older than what was promoted, or of which no statement says",
    "api": "start the API on this host, in the background",
    "bump": "major, minor, patch or a version",
    "deep": "read every layer too and compare its bytes",
    "detach": "return when the stack is healthy instead of streaming its logs",
    "diff": "another overlay: show what differs there",
    "dry-run": "print the plan, touch nothing",
    "finish": "end the old key",
    "fix": "mend what can be mended safely, then look again",
    "follow": "go on until Ctrl-C",
    "gpu": "with a GPU for Ollama, and for those whose variant in .env is cuda",
    "granger": "with the API on the network granger-network, as llm-call-api",
    "image": "an image of docker/images.toml; may be given several times (default: all)",
    "json": "print one JSON document on stdout",
    "monitoring": "with Prometheus, its rules and consoles on 127.0.0.1:9090",
    "no-cache": "run every step again",
    "overlay": "host, hybrid, prod or dev; with add-ons: prod+granger",
    "part": "major, minor, patch or a version",
    "platform": 'comma-separated platforms, or "all" (default: the engine\'s own)',
    "refresh": "decide again, with today's packages or the hub's newest image",
    "registry": "HOST[:PORT][/PREFIX] (default: SHIPYARD_REGISTRY, else the embedded one)",
    "scale": "instances: llm-call-api=3",
    "service": "one service (default: all)",
    "skip-repro": "the reason why images are not rebuilt; it goes into the provenance",
    "tail": "lines per service",
    "target": "prod, dev, debug, local or cuda",
    "timeout": "seconds after which it ends, whatever the registry does (default: 60; with --deep 900)",
    "version": "a version that is released already",
    "volumes": "remove the stack's data too",
    "what": "a version, latest, X, X.Y, a reference or a digest",
}


def verb(*options: str, name: str | None = None) -> Callable[[Callable[..., None]], Any]:
    """An Invoke task whose toolkit errors become a clean exit: message on stderr, the error's own exit code."""

    def decorate(body: Callable[..., None]) -> Any:
        @wraps(body)
        def clean(*positional: Any, **named: Any) -> None:
            try:
                with signals.of_a_verb():
                    body(*positional, **named)
            except (ShipyardError, OSError) as failed:
                known = of_the_disk(failed) if isinstance(failed, OSError) else failed
                if known is None or os.environ.get("SHIPYARD_DEBUG"):
                    raise
                console.error(str(known))
                if known.see:
                    console.info(known.see)
                sys.exit(signals.exit_code() or known.exit_code)
            except signals.Stopped as stopped:
                console.info(signals.again())
                console.error(str(stopped))
                sys.exit(stopped.exit_code)

        lists = [each for each in options if each in ("image", "scale")]
        return task(name=name, iterable=lists, help={each: HELP[each] for each in options})(clean)

    return decorate


def here() -> tuple[Any, Any]:
    """The checkout that these files belong to, and the engine it uses (started if there is none)."""
    return shipyard.config.load(Path(__file__).parents[1]), shipyard.engine.find()
