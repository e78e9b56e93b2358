"""One end for a whole piece of work, however many requests it takes and however slowly they are answered."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from shipyard.errors import RegistryFailed

Result = TypeVar("Result")


class TooLate(RegistryFailed):
    """The time was over before the work was done."""


class Deadline:
    """``seconds`` from now on; ``what`` is the work as its error calls it, ``more`` says how to give it more time."""

    def __init__(self, seconds: float, what: str, more: str) -> None:
        self.seconds, self._what, self._more = seconds, what, more
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the end; 0 when it is over."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises TooLate when the time is over."""
        if not self.left:
            raise self.late()

    def late(self, why: str = "") -> TooLate:
        """The error. ``why`` is what was waited for last."""
        last = f" ({why})" if why else ""
        return TooLate(f"{self._what} was not done after {self.seconds:g} s{last}; {self._more}")

    def hold(self, work: Callable[[], Result], stop: Callable[[], None]) -> Result:
        """Do it in a thread of its own, and leave that behind when the time is over: then ``stop`` is called.

        Whatever the work waits for (a name, a handshake, a head that comes byte by byte), this returns in time. Raises
        TooLate, and what the work raises. A thread that is left behind does not keep the process from ending.
        """
        answer: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answer.put((work(), None))
            except BaseException as problem:
                answer.put((None, problem))

        threading.Thread(target=run, name="deadline", daemon=True).start()
        try:
            found, problem = answer.get(timeout=self.left)
        except queue.Empty:
            stop()
            raise self.late() from None
        except BaseException:
            stop()
            raise
        if problem is not None:
            raise problem
        return found  # type: ignore[return-value]
