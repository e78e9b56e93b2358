"""`lanes.py nox ...` runs every session in lanes at the same time, for each waits much of its time; `--one` runs what it is given.

Ctrl-C, SIGTERM and SIGHUP reach all that a lane has started, each of which is a process group. What was ignored when this
was started (`./scripts/nox &` in a script, `nohup`) stays ignored, here and there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LANES = (1, 2, 3)
#: Seconds that tests get to take down what they started, before they are killed; a stack of containers takes ten.
GRACE = 60.0
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal that came first; later ones are counted."""


class Lanes:
    """The lanes' processes, and the signal that ends them."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self.argv, self.folder = argv, folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.stopped = self.count = 0
        for number in STOP:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, _: Any) -> None:
        self.stopped = self.stopped or number
        self.count += 1

    def one(self) -> None:
        """A single one, which may read: what a person has named."""
        self.running[LANES[0]] = subprocess.Popen(self.argv, process_group=0)

    def start(self) -> None:
        """The first lane is seen as it goes; what another said is shown when it is done."""
        for lane in LANES:
            with (self.folder / str(lane)).open("wb") as said:
                self.running[lane] = subprocess.Popen(
                    [*self.argv, "--tags", f"lane{lane}"],
                    env={**os.environ, "SHIPYARD_TEST_LANE": str(lane)},
                    stdin=subprocess.DEVNULL,
                    stdout=None if lane == LANES[0] else said,
                    stderr=None if lane == LANES[0] else subprocess.STDOUT,
                    process_group=0,
                )

    def wait(self) -> int:
        """Until all have ended; the exit status."""
        status, seen, deadline = 0, 0, 0.0
        while self.running:
            if self.count > seen:
                seen, deadline = self.count, deadline or time.monotonic() + GRACE
                self._tell(self._order())
            if deadline and time.monotonic() > deadline:
                self._tell(signal.SIGKILL)
            for lane, process in list(self.running.items()):
                if process.poll() is not None and (not self.stopped or not _left(process.pid)):
                    status = process.returncode or status
                    self._show(lane)
                    del self.running[lane]
            time.sleep(0.05)
        return 128 + self.stopped if self.stopped else status if status >= 0 else 128 - status

    def _order(self) -> signal.Signals:
        """What tests answer by taking down what they started, unless they were started to ignore it."""
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return signal.SIGTERM if ignored else signal.SIGINT

    def _tell(self, number: int) -> None:
        for process in self.running.values():
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue

    def _show(self, lane: int) -> None:
        if lane != LANES[0]:
            with (self.folder / str(lane)).open("rb") as said:
                shutil.copyfileobj(said, sys.stdout.buffer)
            sys.stdout.flush()


def _left(group: int) -> bool:
    """Whether anything of a process group still runs: tests may take longer to end than nox."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main(words: list[str]) -> int:
    """Run the command in every lane, or with ``--one`` as it is."""
    alone = words[:1] == ["--one"]
    with tempfile.TemporaryDirectory() as folder:
        lanes = Lanes(words[1:] if alone else words, Path(folder))
        if alone:
            lanes.one()
        else:
            lanes.start()
        return lanes.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
