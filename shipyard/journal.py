"""The journal of a release: one JSON line per event, on the disk before anything else happens.

It remembers what the world cannot be asked (a test's result, a time); whether a thing was done is asked of the world.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipyard import signals

#: What a line can say of a step. ``skipped`` is for a step that was found done although no line says so.
STATES = ("begun", "done", "failed", "skipped")


@dataclass(frozen=True)
class Entry:
    """One event. ``time`` is UTC in ISO 8601 with milliseconds."""

    time: str
    step: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    pid: int = 0
    host: str = ""

    @property
    def seconds(self) -> float:
        """``time`` in seconds since 1970."""
        return datetime.fromisoformat(self.time).timestamp()


class Journal:
    """The lines of one release. Only the holder of the lease writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """Every readable line. What a crash tore, or a person damaged, does not count: the world is asked instead."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [entry for line in lines if (entry := _entry(line))]

    def write(self, step: str, state: str, facts: Mapping[str, Any] | None = None) -> Entry:
        """Add a line; it is on the disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = Entry(now, step, state, dict(facts or {}), os.getpid(), socket.gethostname())
        line = json.dumps(asdict(entry), separators=(",", ":"), sort_keys=True).encode() + b"\n"
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with signals.held():
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                end = _whole(handle)
                os.ftruncate(handle, end)
                if os.pwrite(handle, line, end) < len(line):
                    raise OSError(28, "no space left for the journal", str(self.path))
                os.fsync(handle)
            finally:
                os.close(handle)
            if new:
                _sync(self.path.parent)
        return entry

    def facts(self, step: str, **same: Any) -> Mapping[str, Any] | None:
        """What is known of a step's last success, of those whose facts say ``same``; None when there is none."""
        for entry in reversed(self.entries()):
            matches = all(entry.facts.get(name) == value for name, value in same.items())
            if entry.step == step and entry.state in ("done", "skipped") and matches:
                return entry.facts
        return None

    def span(self, step: str) -> tuple[float, float] | None:
        """When a step began that was done last (seconds since 1970), and what it took; None when it was never done here."""
        begun, found = None, None
        for entry in self.entries():
            if entry.step == step and entry.state == "begun":
                begun = entry
            elif entry.step == step and entry.state == "done" and begun:
                found = begun.seconds, round(entry.seconds - begun.seconds, 3)
        return found

    def unfinished(self, step: str) -> Mapping[str, Any] | None:
        """The facts with which a step began since it ended well last; None when it did not begin since."""
        found: dict[str, Any] | None = None
        for entry in self.entries():
            if entry.step == step and entry.state in ("done", "skipped"):
                found = None
            elif entry.step == step and entry.state == "begun":
                found = {**(found or {}), **entry.facts}
        return found

    def attempts(self, step: str) -> int:
        """How often a step began since it ended well last, the time that is under way among them."""
        count = 0
        for entry in self.entries():
            if entry.step == step:
                count = 0 if entry.state in ("done", "skipped") else count + (entry.state == "begun")
        return count


def _entry(line: bytes) -> Entry | None:
    try:
        found = Entry(**json.loads(line))
        return found if found.state in STATES and isinstance(found.facts, dict) and found.seconds else None
    except (ValueError, TypeError):
        return None


def _whole(handle: int) -> int:
    """Where the last whole line ends: what a crash tore off is written over."""
    size = os.fstat(handle).st_size
    return os.pread(handle, size, 0).rfind(b"\n") + 1


def _sync(folder: Path) -> None:
    """Put a folder's entries on the disk; the file's own name would be lost otherwise."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
