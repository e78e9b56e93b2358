"""From a request to its rights at the gate."""

from __future__ import annotations

import time

from claude_proxy.conversation import Ask
from claude_proxy.gate.ledger import Rights
from claude_proxy.settings import Settings

LEEWAY_SECONDS = 5.0
"""From the deadline of a request to the end of its token: the proxy ends the request itself."""


def own_calls(retries: int) -> int:
    """Return how often the CLI may ask for an answer without tools: streamed and, where that fails, not; and a few more."""
    return 2 * (1 + retries) + 2


def rights(ask: Ask, settings: Settings) -> Rights:
    """Return what a request may have, from now on."""
    calls, tokens = ask.calls or settings.gate.calls, ask.tokens or settings.gate.tokens
    calls, tokens = min(calls, ask.most_calls or calls), min(tokens, ask.most_tokens or tokens)
    if not (ask.tools or ask.servers):
        calls = min(calls, own_calls(settings.retries))
    until = time.monotonic() + settings.deadline + LEEWAY_SECONDS
    return Rights(ask.model, calls, tokens, until, "WebSearch" in (ask.tools or ()))
