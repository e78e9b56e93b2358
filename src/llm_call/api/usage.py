"""How many tokens an answer took, read off its end without parsing all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_call.api.catalog import Price

BYTES_PER_TOKEN = 4
"""Of an English text, by OpenAI's own rule of thumb; of JSON and other languages there are fewer."""
TAIL_BYTES = 4096
"""OpenAI's documents and streams have `usage` near the end."""
PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,12})')
COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,12})')


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `estimated` where the upstream did not tell them."""

    prompt: int
    completion: int
    estimated: bool = False

    def cost(self, price: Price | None) -> float | None:
        """Return US dollars, or None where no price is known."""
        if price is None:
            return None
        return (self.prompt * price.input + self.completion * price.output) / 1_000_000


def estimate(request: bytes, events: int) -> Usage:
    """Return what a stream of so many events took at a guess: most servers send one token in each."""
    return Usage(len(request) // BYTES_PER_TOKEN, events, estimated=True)


def read(tail: bytes) -> Usage | None:
    """Return the usage that `tail`, the end of an answer, tells; None if it tells none."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None
    prompt = PROMPT.search(tail, start)
    completion = COMPLETION.search(tail, start)
    if not prompt and not completion:
        return None
    return Usage(int(prompt[1]) if prompt else 0, int(completion[1]) if completion else 0)
