"""What llama-server writes, as lines of our own log: at the level debug, and nothing that may quote a request."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque

log = logging.getLogger("llm_call.local")

CHUNK = 16 * 1024
LONGEST_LINE = 500
"""Characters of a line that are kept."""
KEPT = 12
"""Lines that are told when it fails."""
STAMP = r"(?:\d+(?:\.\d+)+ )?"
STAMPED = re.compile(STAMP.removesuffix("?"))
ORDINARY = re.compile(STAMP + r"(?:I )?(?:slot|srv|que|res|cmn)\s(?!.*(?:error|exception|fail))", re.IGNORECASE)
"""Lines about the work itself. Those about errors quote what was asked, such as a grammar or a schema."""
FATAL = re.compile(STAMP + r"(?:[EWI] )?(?:\S+\.(?:cpp|cu|cuh|c|h|hpp):\d+: |CUDA error|ggml_|terminate called)")
"""The last words of a process that aborts."""
TELLING = re.compile(r"error|fail|cannot|unknown|invalid|out of memory|GGML_ASSERT", re.IGNORECASE)


class Journal:
    """Reads a process's output to its end. Until `serving` is set, before any request, every line is kept."""

    def __init__(self, model: str, pid: int) -> None:
        self.serving = False
        self._fields = {"model": model, "pid": pid}
        self._last: deque[str] = deque(maxlen=KEPT)
        self._withheld = 0
        self._stamps = False

    async def follow(self, output: asyncio.StreamReader) -> None:
        """Read until the end."""
        rest = b""
        while chunk := await output.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._note(line)
            rest = rest[: 4 * LONGEST_LINE]
        if rest:
            self._note(rest)

    @property
    def last(self) -> list[str]:
        """The last lines, oldest first."""
        withheld = [f"({self._withheld} lines are withheld: they may quote a request)"] if self._withheld else []
        return [*self._last, *withheld]

    @property
    def reason(self) -> str:
        """The last line that sounds like a reason, without its time stamp; empty if there is none."""
        telling = [line for line in self._last if TELLING.search(line)]
        return re.sub("^" + STAMP + "(?:[EWI] )?", "", telling[-1]) if telling else ""

    def _note(self, raw: bytes) -> None:
        line = raw[: 4 * LONGEST_LINE].decode("utf-8", "replace").rstrip()[:LONGEST_LINE]
        if not line:
            return
        stamped = STAMPED.match(line) is not None
        self._stamps = self._stamps or stamped
        # Where lines begin with a time, one without is the rest of what came before it.
        ordinary = ORDINARY.match(line) and stamped >= self._stamps
        if self.serving and not ordinary and not FATAL.match(line):
            self._withheld += 1
            return
        self._last.append(line)
        log.debug(line, extra=self._fields)
