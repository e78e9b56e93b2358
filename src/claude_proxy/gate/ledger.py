"""Who may ask for what: the rights of each run by its token, and what it has used of them. Pure decisions, no sockets."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from claude_proxy.gate.document import Asked
from claude_proxy.gate.refusal import Refusal
from claude_proxy.models import ALIASES

LONG = "[1m]"
"""The end of a model's name that stands for a longer context; the CLI sends it as an entry of a header field."""
VERSION = r"[0-9]{1,2}(-[0-9]{1,2})?(-[0-9]{8})?"
FAMILIES = {alias: re.compile(rf"claude-{alias}-{VERSION}") for alias in ALIASES}
"""By an alias: how the names of the models are formed that the CLI may know by it, such as claude-haiku-4-5-20251001."""
IN_FLIGHT = 16
"""Calls of one run that are answered at the same time; the CLI's sub-agents are ten at most."""
CONNECTIONS = 64
"""Of one run; the CLI has one for each call in flight."""
BODY_BYTES = 32 * 1024 * 1024
ALL_BODY_BYTES = 512 * 1024 * 1024
SMALL_BODY_BYTES = 1024 * 1024
"""What the bodies of one run, and of all runs, may hold; a run whose bodies are smaller is let in however much others hold."""


@dataclass(frozen=True)
class Rights:
    """What a run may ask the provider for, until the monotonic clock of this machine shows `until` (in seconds).

    `model` is the CLI's name of the one model; `tokens` are of input and output together; `search` allows the provider's
    web search.
    """

    model: str
    calls: int
    tokens: int
    until: float
    search: bool = False


class Account:
    """One run. Its rights never grow."""

    def __init__(self, number: int, rights: Rights) -> None:
        self.number = number
        self.rights = rights
        self.calls = self.tokens = self.refused = 0
        self.connections = 0
        self.bodies = 0
        self.model = ""
        """The full name of the model that an alias turned out to stand for."""
        self.slots = asyncio.Semaphore(IN_FLIGHT)
        self.reading = asyncio.Lock()
        self.patience = asyncio.Lock()

    def check(self, now: float) -> None:
        """Raise Refusal when nothing more may be asked, whatever it is."""
        if now >= self.rights.until:
            raise Refusal(401, "expired", "the time of this request is over (CLAUDE_PROXY_DEADLINE)")
        if self.calls >= self.rights.calls:
            limit = f"it had {self.rights.calls} calls of the model (CLAUDE_PROXY_REQUEST_CALLS, or calls= of its key)"
            raise Refusal(429, "calls", f"this request has used all its calls: {limit}")
        if self.tokens >= self.rights.tokens:
            limit = f"it had {self.rights.tokens} tokens (CLAUDE_PROXY_REQUEST_TOKENS, or tokens= of its key)"
            raise Refusal(429, "tokens", f"this request has used all its tokens: {limit}")

    def admit(self, asked: Asked) -> None:
        """Raise Refusal when this is not what the run may ask for. The first name that fits an alias is kept to."""
        if not names(self.rights.model, asked.model) or self.model not in ("", asked.model):
            raise Refusal(
                403,
                "model",
                f'this request may use the model "{self.model or self.rights.model}", not "{asked.model[:100]}"',
            )
        if asked.search and not self.rights.search:
            raise Refusal(403, "member", "this request may not search the web: its key has no tools=WebSearch")
        self.model = asked.model

    @property
    def long_context(self) -> bool:
        """Whether the model was asked for with its longer context."""
        return self.rights.model.endswith(LONG)


class Ledger:
    """The runs that live now."""

    def __init__(self) -> None:
        self._accounts: dict[bytes, Account] = {}
        self._bodies = 0

    def grant(self, token: str, account: Account) -> None:
        """Let in who shows this token."""
        self._accounts[_digest(token.encode())] = account

    def revoke(self, token: str) -> Account | None:
        """Let nobody in by this token any more."""
        return self._accounts.pop(_digest(token.encode()), None)

    def find(self, token: bytes) -> Account:
        """Return the run of a token; raises Refusal 401."""
        # By its digest: how long the look-up takes tells nothing of other tokens.
        account = self._accounts.get(_digest(token))
        if account is None:
            raise Refusal(
                401, "unknown", "the gate does not know this token; it is made for one request and ends with it"
            )
        return account

    @contextmanager
    def holding(self, account: Account, size: int) -> Iterator[None]:
        """Count a body of so many bytes while it is here; raises Refusal 503."""
        shared = self._bodies + size > ALL_BODY_BYTES and account.bodies + size > SMALL_BODY_BYTES
        if account.bodies + size > BODY_BYTES or shared:
            raise Refusal(503, "bodies", "too many large bodies at once; send it again", headers={"retry-after": "1"})
        account.bodies += size
        self._bodies += size
        try:
            yield
        finally:
            account.bodies -= size
            self._bodies -= size


def names(granted: str, model: str) -> bool:
    """Tell whether a model's name on the wire is the one that was granted by the CLI's name."""
    bare = granted.removesuffix(LONG)
    family = FAMILIES.get(bare)
    return bool(family.fullmatch(model)) if family else model == bare


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
