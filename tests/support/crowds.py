"""Crowds of clients without a key, in processes of their own: tests/support/crowd.py."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.service import ROOT

#: Seconds that a crowd lasts at the most, whatever becomes of the test.
LONGEST = 120


class Crowd:
    """One process; `seen` has its counts once it has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen: Mapping[str, Any] = {}

    def leave(self) -> None:
        """End it, and read what it saw."""
        output, _ = self.process.communicate(b"end\n", timeout=60)
        self.seen = json.loads(output.splitlines()[-1])


@contextlib.contextmanager
def crowd(kind: str, port: int, count: int, sources: int = 1, address: str = "127.0.0.1") -> Iterator[Crowd]:
    """So many connections, all of which have been opened once when the block begins; a quarter of them is opened a second.

    That is enough to open each again that the server ends after 5 s.
    """
    words = ["--port", str(port), "--count", str(count), "--sources", str(sources), "--address", address]
    words += ["--rate", str(count // 4)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/support/crowd.py"), kind, *words, "--seconds", str(LONGEST)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    found = Crowd(process)
    try:
        assert process.stdout
        assert process.stdout.readline().startswith(b"open ")
        yield found
        found.leave()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
