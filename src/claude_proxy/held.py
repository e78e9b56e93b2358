"""Answers to the calls that the filter holds, by a thread of the keeper's own.

To read a process's memory or to hand it a file takes until that process lets it happen, and one with the lowest priority,
among others of its request that never rest, makes that minutes. It is the other calls of the same request that wait then:
the keeper goes on looking at what it uses, and ends it when it is told to.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import threading
import time

from claude_proxy import bounds, entries, modes, notices, seccomp

REFUSAL_SECONDS = 0.02
"""How long a process waits for the answer that it may not fork now."""
FORKS = seccomp.numbers(seccomp.FORKS, platform.machine())
OPENS = {seccomp.number(name, platform.machine()): place for name, place in seccomp.OPENS.items()}


class Answers(threading.Thread):
    """Answers the calls of a listener. `over` names the bound that one of them would have passed.

    A byte is written to `wake` then, and when it ended by a fault.
    """

    def __init__(self, listener: int, guard: bounds.Guard, roots: list[str], wake: int) -> None:
        super().__init__(name="answers", daemon=True)
        self.over = ""
        self.failed = False
        self._listener, self._guard, self._roots, self._wake = listener, guard, roots, wake
        self._stopped = False
        self._forking = threading.Lock()

    def run(self) -> None:
        """Answer until nobody can ask any more, or nobody may fork any more."""
        # A call that is interrupted after it began to hand over a file leaves the process with a wrong one.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._serve()
        except BaseException:
            self.failed = True
            raise
        finally:
            with contextlib.suppress(BlockingIOError):  # full, so that whoever reads it is awake
                os.write(self._wake, b"\0")

    def stop(self) -> None:
        """Answer no more; whatever asks stands still until it is killed."""
        with self._forking:
            self._stopped = True

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        while not (self._stopped or self.over):
            if not poller.poll()[0][1] & select.POLLIN:
                return
            notice = notices.receive(self._listener)
            if notice is not None:
                self._answer(notice)

    def _answer(self, notice: notices.Notice) -> None:
        if notice.number in OPENS:
            path, flags = notice.arguments[OPENS[notice.number] :][:2]
            entries.answer(self._listener, notice, path, flags & 0xFFFFFFFF & ~seccomp.LARGE_FILE)
        elif notice.number in FORKS:
            self._answer_fork(notice)
        else:
            notices.done(self._listener, notice, modes.change(self._listener, notice, self._roots))

    def _answer_fork(self, notice: notices.Notice) -> None:
        error = self._guard.fork()
        if error is None:
            self.over = bounds.PIDS
        elif error:
            # Whoever tries again and again is slowed down by it, so that refusing costs little.
            time.sleep(REFUSAL_SECONDS)
            notices.done(self._listener, notice, error)
        else:
            with self._forking:
                if not self._stopped:
                    notices.let_pass(self._listener, notice)
