"""Hot reload: a supervisor that holds the socket and the loaded libraries, and forks a worker per version of the code.

A worker imports only our own modules, so that it is ready quickly. The one before goes on serving until then, and
afterwards finishes its open streams. The supervisor runs no event loop and no thread: it must be able to fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from serving import debugger, watcher
from serving.child import DEBUG, FREED, HANDOVER, READY
from serving.options import Options
from serving.settings import EX_CONFIG

log = logging.getLogger("serving.reload")

PATIENCE_SECONDS = 5.0
"""A new worker that is not ready after this long gives way to the next change."""
KILL_SECONDS = 10.0
"""How long beyond the drain time a worker may take to end before it is killed."""


@dataclass
class Forked:
    """A worker process, seen from the supervisor."""

    pid: int
    control: socket.socket
    began: float = field(default_factory=time.monotonic)

    def say(self, word: bytes) -> None:
        """Tell the worker `word`; one that has just died is buried in its turn."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.control.send(word)


def supervise(options: Options, listener: socket.socket, preload: Sequence[str], sources: Sequence[str]) -> int:
    """Serve on `listener`, replacing the worker at every change below `sources`, until a signal; the exit code."""
    for name in preload:
        importlib.import_module(name)
    if options.debugger is not None:
        debugger.prepare()
    # A .pyc file knows its source by size and whole seconds: two saves within one second would look the same.
    sys.dont_write_bytecode = True
    gc.collect()
    gc.freeze()  # the workers share these pages as long as the collector leaves them alone
    return Supervisor(options, listener, [str(Path(each).resolve()) for each in sources]).run()


class Supervisor:
    """Three kinds of workers: the candidate (starting), the current one, and old ones (finishing their streams)."""

    def __init__(self, options: Options, listener: socket.socket, sources: Sequence[str]) -> None:
        self._options = options
        self._listener = listener
        self._sources = sources
        self._candidate: Forked | None = None
        self._current: Forked | None = None
        self._old: list[Forked] = []
        self._changed = False
        self._signals = self._seen = 0
        self._hung_up = False
        self._code: int | None = None
        self._kill_at = float("inf")
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()

    def run(self) -> int:
        """Supervise until every worker has ended after a stop; return the exit code."""
        self._listen_to_signals()
        pid, changes = watcher.start(self._sources, self._listener)
        self._selector.register(changes, selectors.EVENT_READ, lambda: self._read_changes(changes))
        self._fork()
        while not (self._code is not None and not self._workers()):
            for key, _ in self._selector.select(1.0):
                act: Callable[[], None] = key.data
                act()
            self._stop_if_told()
            self._pass_on_hangup()
            self._reap()
            if time.monotonic() > self._kill_at:
                self._signal_all(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return self._code

    def _workers(self) -> list[Forked]:
        return [each for each in (self._candidate, self._current, *self._old) if each]

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._note_signal)
        signal.signal(signal.SIGHUP, self._note_hangup)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(self._wake, selectors.EVENT_READ, lambda: _discard(self._wake))

    def _note_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Acted upon in the main loop: a handler could run between a fork and the note of its process id.
        self._signals += 1

    def _note_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self._hung_up = True

    def _pass_on_hangup(self) -> None:
        """Have the current worker read its files again; a candidate is reading them anyway."""
        if self._hung_up and self._current:
            self._hung_up = False
            os.kill(self._current.pid, signal.SIGHUP)

    def _stop_if_told(self) -> None:
        if self._signals == self._seen:
            return
        self._seen = self._signals
        self._code = 1 if self._signals > 1 else 0
        self._kill_at = time.monotonic() + self._options.drain_seconds + KILL_SECONDS
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for each in self._workers():
            os.kill(each.pid, number)

    def _read_changes(self, reader: int) -> None:
        data = os.read(reader, 1 << 16)
        if not data:
            self._selector.unregister(reader)
            log.error("the watcher of the source files ended; restart the service to get hot reload back")
            return
        names = [os.path.relpath(path) for path in watcher.parse(data)]
        log.info("changed", extra={"files": names})
        if self._candidate and time.monotonic() - self._candidate.began > PATIENCE_SECONDS:
            log.warning("the worker before is still not ready and gives way", extra={"pid": self._candidate.pid})
            os.kill(self._candidate.pid, signal.SIGKILL)
        self._changed = True
        self._fork_if_changed()

    def _fork_if_changed(self) -> None:
        if self._changed and not self._candidate and self._code is None:
            self._fork()

    def _fork(self) -> None:
        self._changed = False
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_worker(theirs)
        theirs.close()
        ours.setblocking(False)
        worker = self._candidate = Forked(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(worker))

    def _become_worker(self, control: socket.socket) -> None:
        code = 1
        try:
            watcher.detach()  # Ctrl-C reaches the supervisor, which passes it on once
            self._let_go()
            forget(self._sources)
            code = importlib.import_module("serving.child").run(self._options, self._listener, control)
        except BaseException:
            log.exception("the new code does not start")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _let_go(self) -> None:
        # An inherited end of another worker's link would hide the supervisor's death from that worker.
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()  # type: ignore[attr-defined]  # sockets only, see the calls of register
        self._selector.close()
        self._woken.close()

    def _hear(self, worker: Forked) -> None:
        try:
            words = worker.control.recv(16)
        except OSError:
            words = b""
        if READY in words and worker is self._candidate:
            self._promote(worker)
        if FREED in words and self._current:
            self._current.say(DEBUG)
        if not words:
            self._selector.unregister(worker.control)

    def _promote(self, worker: Forked) -> None:
        before, self._current, self._candidate = self._current, worker, None
        took = round((time.monotonic() - worker.began) * 1000)
        log.info("serving new code" if before else "serving", extra={"pid": worker.pid, "ms": took})
        if before:
            self._old.append(before)
            before.say(HANDOVER)
        else:
            worker.say(DEBUG)
        self._fork_if_changed()

    def _reap(self) -> None:
        for worker in self._workers():
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Forked, code: int) -> None:
        if worker.control in self._selector.get_map():
            self._selector.unregister(worker.control)
        worker.control.close()
        if worker in self._old:
            self._old.remove(worker)
        elif worker is self._candidate:
            self._candidate = None
            self._after_failed_start(code)
        else:
            self._current = None
            if self._code is None:
                log.error("the worker ended by itself; starting another", extra={"pid": worker.pid, "code": code})
                self._changed = True
        self._fork_if_changed()

    def _after_failed_start(self, code: int) -> None:
        if self._code is not None:
            return
        if self._current:
            log.error("the code before goes on serving until the next change", extra={"code": code})
        elif code == EX_CONFIG:
            self._code = code
        else:
            log.error("nothing serves: waiting for a change of the source files", extra={"code": code})


def forget(sources: Sequence[str]) -> None:
    """Drop the modules that lie below `sources`, so that they are imported afresh."""
    roots = tuple(each.rstrip(os.sep) + os.sep for each in sources)
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if name != "__main__" and origin and os.path.realpath(origin).startswith(roots):
            del sys.modules[name]
    importlib.invalidate_caches()


def _discard(end: socket.socket) -> None:
    end.recv(1024)
