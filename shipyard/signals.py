"""The one owner of SIGINT, SIGTERM and SIGHUP while a verb runs.

The first of them stops the verb: ``Stopped`` is raised once in the main thread, at once or at the end of a unit that must
not be cut (``held``, ``whole``), and children that other threads started are ended. Later ones raise nothing, so that
clean-up is never cut; they end its waiting for children (``hurried``). Python forgets an exception that comes in a
destructor or a hook, so ``check`` asks again before whatever cannot be taken back.

A signal that was ignored when the process started (`nohup`, `&` in a script) stays ignored (POSIX, "Signals and Error
Handling" of the shell).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

#: How each is called in an error message.
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
AGAIN = "what was done stays, and the same command goes on from here"


class Stopped(KeyboardInterrupt):
    """A signal stops the verb. No ``except Exception`` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(WORDS[signal.Signals(number)])
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell says it of a process that a signal ended."""
        return 128 + self.number


class _State:
    """``first`` is the number of the signal that stops the verb; ``depth`` counts units that must not be cut."""

    def __init__(self) -> None:
        self.running = self.answered = self.hurried = False
        self.first = self.depth = 0


_state = _State()
#: Called with each signal of a verb, in the main thread: ``run`` ends children there.
listeners: list[Callable[[], None]] = []


def own() -> None:
    """Take the signals that are not ignored. Until a verb runs, one of them ends the process in two lines."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WORDS)  # the launcher blocks them while Python starts


@contextmanager
def of_a_verb() -> Iterator[None]:
    """In this block a signal raises Stopped; one that came and was lost does so at the end of the block."""
    global _state
    before = {number: signal.getsignal(number) for number in WORDS}
    _state = _State()
    own()
    _state.running = True
    try:
        yield
        check()
    finally:
        _state.running = False
        if before[signal.SIGINT] is not _handle:  # a caller that is no launcher, such as a test
            _put_back(before)


def _put_back(before: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, _: Any) -> None:
    if not _state.running:
        _leave(number)
    if _state.first:
        _state.hurried = True
    else:
        _state.first = number
    for each in listeners:
        each()
    if not _state.hurried and not _state.depth:
        raise Stopped(number)


def _leave(number: int) -> None:
    """Before a verb, between two, or after the last: nothing is at work, so there is nothing to clean up."""
    with suppress(OSError):
        os.write(2, f"    {again()}\nerror: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def again(argv: Sequence[str] | None = None) -> str:
    """How to go on: the command line without what the launcher added."""
    words = list(sys.argv[1:] if argv is None else argv)
    while words and words[0] in ("--search-root", "-r"):
        del words[:2]
    return f"{AGAIN}: {shlex.join(['invoke', *words])}"


def exit_code() -> int:
    """That of the signal which stopped the verb, also where its clean-up failed; 0 when none did."""
    return 128 + _state.first if _state.first and not _state.answered else 0


def stopping() -> bool:
    """Whether a signal has come."""
    return bool(_state.first)


def hurried() -> bool:
    """Whether another signal came while the first one's clean-up went on: waits for children end at once."""
    return _state.hurried


def uncut() -> bool:
    """Whether a unit is at work that must not be cut, or clean-up: a child that starts now is not ended by a signal."""
    return bool(_state.depth or _state.first)


def answered() -> None:
    """The signal is the verb's usual end, as when logs are followed: it stops nothing more, and is no error."""
    _state.answered = True


def check() -> None:
    """Raise Stopped if a signal has come, unless a unit must not be cut or this is the clean-up that it caused."""
    if not _state.first or _state.answered or _unwinding():
        return
    if threading.current_thread() is not threading.main_thread() or not _state.depth:
        raise Stopped(_state.first)


def _unwinding() -> bool:
    found = sys.exc_info()[1]
    while found is not None:
        if isinstance(found, Stopped):
            return True
        found = found.__context__
    return False


@contextmanager
def held() -> Iterator[None]:
    """A signal that comes in this block takes effect at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
    check()


@contextmanager
def whole() -> Iterator[None]:
    """A unit that is not cut in the middle: it does not start after a signal, and one that comes waits for its end."""
    check()
    with held():
        yield
