"""Something that takes long to measure, measured in small steps, so that a keeper never stays away for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

STEP_SECONDS, REST_SECONDS = 0.005, 0.1
"""How long one step takes, and how long the keeper rests after it."""


class Meter:
    """Sums up the parts of a whole, again and again. `rest` is how many seconds to wait before the next step.

    `parts` begins a measurement, `round_seconds` lie between the end of one and the beginning of the next.
    """

    def __init__(self, parts: Callable[[], Iterable[int]], round_seconds: float) -> None:
        self._parts = parts
        self._left: Iterator[int] = iter(())
        self._total = 0
        self._round_seconds = round_seconds
        self.rest = round_seconds
        self.whole = 0
        """What the last measurement found that came to its end."""

    def measure(self) -> int:
        """Take one step; return the sum found so far in this round."""
        end = time.monotonic() + STEP_SECONDS
        for size in self._left:
            self._total += size
            if time.monotonic() > end:
                self.rest = REST_SECONDS
                return self._total
        self.whole, self._total = self._total, 0
        self._left = iter(self._parts())
        self.rest = self._round_seconds
        return self.whole
