"""BuildKit's progress events (``--progress rawjson``) turned into what a person reads and into errors that say where."""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shipyard import console

#: ``[api-prod rootfs 2/5] RUN ...``: a step of one target; a request with a single target leaves its name out.
_STEP = re.compile(r"\[(?P<where>[^\]]+?)(?: (?P<count>\d+/\d+))?\] (?P<text>.*)", re.DOTALL)
_MOUNT = re.compile(r"--(?:mount|from|link|chmod|chown)\S*\s*")
#: Lines of output that an error shows.
_TAIL = 20


@dataclass
class Step:
    """One step of the build graph. ``seconds`` counts from its start to its end."""

    target: str
    text: str
    started: float = 0.0
    seconds: float = 0.0
    cached: bool = False
    done: bool = False
    error: str = ""
    rest: bytes = b""
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))


def parse_step(name: str, targets: Sequence[str]) -> Step:
    """A step from BuildKit's name of it; the target is empty for steps of the builder itself."""
    match = _STEP.match(name)
    if not match or match["where"] == "internal":
        only = targets[0] if len(targets) == 1 and name.startswith("exporting") else ""
        return Step(only, name.splitlines()[0][:80] if name else "")
    first, _, rest = match["where"].partition(" ")
    target, stage = (first, rest) if first in targets else (targets[0] if len(targets) == 1 else "", match["where"])
    instruction = _MOUNT.sub("", match["text"]).split("<<")[0]
    words = " ".join(part for part in (stage, match["count"], *instruction.split()) if part)
    return Step(target, words[:80])


class Progress:
    """Collects events and prints each finished step, or keeps a live table when a person watches a terminal."""

    def __init__(self, targets: list[str]) -> None:
        self.steps: dict[str, Step] = {}
        self.other: list[str] = []
        self.finished: dict[str, float] = {}
        self._targets = targets
        self._begin = time.monotonic()
        self._live = _LiveTable(self, targets) if console.is_terminal() else None

    def __enter__(self) -> Progress:
        """Start the live table if there is one."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._live.stop()

    def line(self, line: str) -> None:
        """Take one line of the builder's stderr: an event, or text that is kept for the error message."""
        if not line.startswith("{"):
            self.other.append(line)
            return
        try:
            event = json.loads(line)
        except ValueError:
            self.other.append(line)
            return
        for vertex in event.get("vertexes") or ():
            self._vertex(vertex)
        for log in event.get("logs") or ():
            self._log(log)

    def _vertex(self, vertex: dict[str, Any]) -> None:
        step = self.steps.setdefault(vertex["digest"], parse_step(vertex.get("name", ""), self._targets))
        if vertex.get("started") and not step.started:
            step.started = time.monotonic()
        step.error = vertex.get("error", "") or step.error
        step.cached = bool(vertex.get("cached")) or step.cached
        if vertex.get("completed") and not step.done:
            step.done = True
            if step.rest:
                step.log.append(step.rest.decode(errors="replace"))
                step.rest = b""
            step.seconds = time.monotonic() - step.started if step.started else 0.0
            self._completed(step)

    def _completed(self, step: Step) -> None:
        if step.target in self._targets:
            self.finished[step.target] = time.monotonic() - self._begin
        if self._live or step.cached or not step.target or step.error:
            return
        if step.seconds >= 0.05:
            console.info(f"{step.target:<18} {step.text}  {step.seconds:.1f} s")

    def _log(self, log: dict[str, Any]) -> None:
        step = self.steps.get(log["vertex"])
        if step:
            *lines, step.rest = (step.rest + b64decode(log["data"])).split(b"\n")
            step.log.extend(line.decode(errors="replace").rstrip("\r").rpartition("\r")[2] for line in lines)

    def failed(self) -> Step | None:
        """The step that broke the build; steps that were merely cancelled because of it do not count."""
        broken = [step for step in self.steps.values() if step.error]
        real = [step for step in broken if "context canceled" not in step.error]
        return next(iter(real or broken), None)


class _LiveTable:
    """One row per image: its current step and the seconds it has taken."""

    def __init__(self, progress: Progress, targets: list[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._progress, self._targets = progress, targets
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=8, get_renderable=self._render, transient=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def _render(self) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        steps = list(self._progress.steps.values())
        for target in self._targets:
            running = [step for step in steps if step.target == target and step.started and not step.done]
            done = sum(step.done for step in steps if step.target == target)
            current = running[-1] if running else None
            seconds = f"{time.monotonic() - current.started:5.1f} s" if current else ""
            table.add_row(target, current.text if current else f"{done} steps done", seconds)
        return table
