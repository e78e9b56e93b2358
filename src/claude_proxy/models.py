"""The names of models that the proxy takes, and what the CLI calls them."""

from __future__ import annotations

import difflib
import re
from typing import Any

from serving.errors import ApiError

ALIASES = ("opus", "sonnet", "haiku")
"""The CLI's own names for the newest model of each family."""

USUAL = "sonnet"
"""What a CLI that is started ahead is started for; it can still be told another."""
PREFIX = "max/"
# A name reaches the CLI's command line: it can neither begin like an option nor hold anything but these characters.
FULL_NAME = re.compile(r"claude-[a-z0-9][a-z0-9.@-]{0,80}(\[1m\])?")


def resolve(name: str) -> str:
    """Return the CLI's name of a model; raises ApiError 404 that names the nearest one."""
    bare = name.removeprefix(PREFIX)
    if bare in ALIASES or FULL_NAME.fullmatch(bare):
        return bare
    near = difflib.get_close_matches(bare, ALIASES, n=1, cutoff=0.5)
    hint = f'perhaps you meant "{near[0]}"' if near else f"use {', '.join(ALIASES)} or a full name such as claude-..."
    msg = f'The model "{name[:100]}" does not exist here; {hint}.'
    raise ApiError(404, msg, code="model_not_found", param="model")


def entry(name: str) -> dict[str, Any]:
    """Return the document of GET /v1/models/NAME; raises ApiError 404."""
    resolve(name)
    return {"id": name, "object": "model", "created": 0, "owned_by": "anthropic"}


def listing() -> dict[str, Any]:
    """Return the document of GET /v1/models."""
    return {"object": "list", "data": [entry(name) for name in ALIASES]}
