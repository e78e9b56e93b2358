"""One at a time: a lock in a file that names its owner, beats while the owner works, and ends when it is dead."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from shipyard import console, processes, signals
from shipyard.errors import ReleaseBusy

#: Seconds between two heartbeats, and how long none may come before an owner on another machine counts as dead.
BEAT, EXPIRY = 5.0, 30.0


@dataclass(frozen=True)
class Owner:
    """Who holds a lease. ``machine`` and ``started`` tell a process from a later one of the same number."""

    token: str
    pid: int
    started: int | None
    machine: str
    host: str
    user: str
    what: str
    since: str
    heartbeat: float

    def __str__(self) -> str:
        """For an error message."""
        return f"{self.what}, pid {self.pid} of {self.user} on {self.host} since {self.since}"


class Lease:
    """A lease that this process holds."""

    def __init__(self, path: Path, mine: Owner) -> None:
        self._path, self._mine = path, mine

    def take(self, expiry: float) -> None:
        """Make it ours. Raises ReleaseBusy as ``held`` does."""
        _take(self._path, self._mine, expiry)

    def check(self) -> None:
        """Ask before whatever cannot be taken back. Raises ReleaseBusy when the lease is no longer ours."""
        found = read(self._path)
        if found is None or found.token != self._mine.token:
            now = f"has it now: {found}" if found else "may begin: its file is gone"
            msg = f"this release lost its lease ({self._path}); another {now}. Nothing more is written; run it again"
            raise ReleaseBusy(msg)

    def beat(self) -> bool:
        """Say that we live; false when the lease is no longer ours."""
        with _alone(self._path):
            found = read(self._path)
            if found is None or found.token != self._mine.token:
                return False
            _write(self._path, Owner(**{**asdict(self._mine), "heartbeat": time.time()}))
            return True

    def give_back(self) -> None:
        """Remove the file when it is still ours."""
        with _alone(self._path):
            found = read(self._path)
            if found and found.token == self._mine.token:
                self._path.unlink()


@contextmanager
def held(path: Path, what: str, *, beat: float = BEAT, expiry: float = EXPIRY) -> Iterator[Lease]:
    """Hold the lease at ``path``; that of a dead owner is taken over. Raises ReleaseBusy naming a live one.

    An owner on this machine is looked up; one on another is dead when no heartbeat comes for ``expiry`` seconds, which
    are waited for, as two machines' clocks need not agree.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lease = Lease(path, _myself(what))
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(lease, over, beat), name="lease", daemon=True)
    try:
        lease.take(expiry)
        with signals.held():
            beating.start()
        yield lease
    finally:
        with signals.held():
            over.set()
            if beating.ident is not None:
                beating.join()
            lease.give_back()


def read(path: Path) -> Owner | None:
    """Who holds it; None for nobody, or a file that no owner wrote."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def alive(owner: Owner) -> bool | None:
    """Whether an owner still runs; None when only its heartbeat can tell: it is on another machine, or there is no /proc."""
    if owner.machine != _machine() or not owner.started:
        return None
    return processes.started(owner.pid) == owner.started


def _take(path: Path, mine: Owner, expiry: float) -> None:
    seen: Owner | None = None
    end = time.monotonic() + expiry
    while True:
        with _alone(path):
            found = read(path)
            if found is None or alive(found) is False or (found == seen and time.monotonic() > end):
                if found:
                    console.info(f"taking over from a dead owner ({found})")
                with signals.held():
                    _write(path, mine)
                return
        if alive(found) or (seen and found != seen):
            raise ReleaseBusy(_busy(path, found))
        if seen is None:
            console.info(f"waiting up to {expiry:g} s for a sign of life ({found})")
        seen = found
        time.sleep(min(1.0, expiry / 10))


def _busy(path: Path, owner: Owner) -> str:
    silent = max(0.0, time.time() - owner.heartbeat)
    return (
        f"another one is under way: {owner} (last heartbeat {silent:.0f} s ago, {path}).\n"
        f"See it with `ps -p {owner.pid}` on {owner.host}; wait for its end, or end it and run this again"
    )


def _beat(lease: Lease, over: threading.Event, seconds: float) -> None:
    while not over.wait(seconds):
        try:
            if not lease.beat():
                return
        except OSError:
            continue  # a full disk: the owner still lives, which this machine can see by its pid


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two that look at the file at once come one after the other; the kernel lets go when one dies."""
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, owner: Owner) -> None:
    scratch = path.with_name(f".{path.name}.{owner.token}")
    scratch.write_text(json.dumps(asdict(owner), indent=2) + "\n")
    scratch.replace(path)


def _myself(what: str) -> Owner:
    return Owner(
        token=secrets.token_hex(16),
        pid=os.getpid(),
        started=processes.started(os.getpid()),
        machine=_machine(),
        host=socket.gethostname(),
        user=_user(),
        what=what,
        since=datetime.now(UTC).strftime("%F %T UTC"),
        heartbeat=time.time(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        return f"uid {os.getuid()}"


def _machine() -> str:
    """What tells processes apart by their numbers: the running kernel (proc(5), boot_id) and the pid namespace."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
