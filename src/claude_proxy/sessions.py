"""Conversations that the service keeps, per key: one file each, in the CLI's own session format.

Below `sessions/` lies a folder per key, named by a hash that nobody can guess, with `ID.jsonl` and its lock `ID.lock`.
The CLI itself sees a copy of one of them at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from claude_proxy import command, failures
from claude_proxy.conversation import Ask, Turn
from claude_proxy.settings import Limits

PRIVATE = 0o700
SALT = "salt"


@dataclass
class Session:
    """One conversation, locked. `known` tells whether it existed before."""

    path: Path
    known: bool
    system: str = ""
    history: list[Turn] = field(default_factory=list)
    _lock: int = -1

    def extend(self, ask: Ask) -> Ask:
        """Return the request with what was said before; raises ApiError 400 when it repeats that."""
        if not self.known:
            return ask
        if ask.history:
            raise failures.session_repeated(ask.session, len(self.history))
        return replace(ask, system=ask.system or self.system, history=self.history)

    def save(self, ask: Ask, answer: Sequence[Turn], size: int) -> int:
        """Replace the file by the conversation with its new turns, and let go; return how many turns it has.

        Raises OSError, and ApiError 400 when it would have more than `size` bytes.
        """
        turns = [*ask.history, Turn("user", ask.prompt), *answer]
        head = orjson.dumps({"type": "claude-proxy", "system": ask.system}) + b"\n"
        content = head + command.transcript(turns, ask.model, "", "")
        if len(content) > size:
            raise failures.session_too_long(ask.session, size)
        draft = self.path.with_suffix(".new")
        draft.touch(0o600)
        draft.write_bytes(content)
        draft.replace(self.path)
        self.close()
        return len(turns)

    def close(self) -> None:
        """Let the next request have it."""
        if self._lock >= 0:
            if not self.path.exists():
                self.path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1


class Sessions:
    """All sessions below `root`. Its methods block; call them from a thread."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self.limits = limits

    def open(self, key: str, ident: str) -> Session:
        """Lock a session and read it; raises ApiError 409 when another request has it."""
        folder = self._folder(key)
        lock = _lock(folder / f"{ident}.lock")
        if lock is None:
            raise failures.session_busy(ident)
        path = folder / f"{ident}.jsonl"
        try:
            if not self._fresh(path):
                self._make_room(folder)
                return Session(path, known=False, _lock=lock)
            head, *lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
            turns = [Turn(line["message"]["role"], line["message"]["content"]) for line in lines]
            return Session(path, True, head["system"], turns, lock)
        except BaseException:
            os.close(lock)
            raise

    def sweep(self) -> None:
        """Forget every session whose time is over."""
        for folder in self._root.glob("*/"):
            self._forget([path for path in folder.glob("*.jsonl") if not self._fresh(path)])

    def _folder(self, key: str) -> Path:
        self._root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        name = hmac.digest(_salt(self._root), key.encode(), "sha256").hex()[:32]
        (self._root / name).mkdir(mode=PRIVATE, exist_ok=True)
        return self._root / name

    def _fresh(self, path: Path) -> bool:
        try:
            return time.time() - path.stat().st_mtime < self.limits.seconds
        except FileNotFoundError:
            return False

    def _make_room(self, folder: Path) -> None:
        ages = sorted((path.stat().st_mtime, path) for path in folder.glob("*.jsonl"))
        stale = [path for _, path in ages if not self._fresh(path)]
        spare = len(ages) - len(stale) - self.limits.count + 1
        oldest = [path for _, path in ages if path not in stale][: max(0, spare)]
        self._forget([*stale, *oldest])

    def _forget(self, paths: list[Path]) -> None:
        for path in paths:
            lock = _lock(path.with_suffix(".lock"))
            if lock is not None:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                os.close(lock)


def _salt(root: Path) -> bytes:
    """Return the secret of this workspace; so the name of a key does not tell where its sessions are."""
    path = root / SALT
    if not path.exists():
        draft = root / f"{SALT}.{secrets.token_hex(8)}"
        draft.write_bytes(secrets.token_bytes(32))
        draft.chmod(0o600)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()


def _lock(path: Path) -> int | None:
    """Return an open, locked file, or None when somebody else holds it; it frees itself when its owner dies."""
    while True:
        number = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(number), path.stat()):
                return number
        except BlockingIOError:
            os.close(number)
            return None
        except FileNotFoundError:
            pass
        # It was removed between opening and locking: that lock keeps nobody out.
        os.close(number)
