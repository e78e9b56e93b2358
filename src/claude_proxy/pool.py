"""The runners that are connected now, each with room for one CLI; the other end is `runner`.

A runner is a container of its own with a uid of its own, so that nothing that one request takes is missed by another. It
connects to a socket below a folder that it shares with us and nobody else; the socket's name cannot be guessed, for what
runs in a runner may connect to any name that it knows. What comes from a runner is not trusted: it is short, and says one
of three things at its time, or the runner is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from claude_proxy import failures, parcels
from claude_proxy.bounds import Bounds
from claude_proxy.conversation import Ask
from claude_proxy.folders import Folder
from claude_proxy.places import Place
from claude_proxy.process import Command, Processes, Running
from claude_proxy.spares import Spare, Spares
from serving.settings import SettingsError, reason

log = logging.getLogger("claude_proxy.pool")

SUFFIX = ".sock"
READY, LEAVING = b"ready ", b"leaving"
LONGEST_MESSAGE = 1024
CREDENTIALS = struct.Struct("3i")
"""struct ucred of linux/socket.h: process, user, group."""
WORK = re.compile(r"(/[A-Za-z0-9_.-]{1,64}){1,8}")
LEAST, MOST = 1 << 20, 1 << 50
"""What a runner may say of its memory and disk, in bytes."""
RESET_SECONDS = 10.0
"""How long a runner may take to become clean after a run; then it is let go, and starts again by itself."""
ABSENT_SECONDS = 3.0
"""How long a request waits where no runner is connected: all of them come back at once after a restart of ours."""


@dataclass(frozen=True)
class Room:
    """What a runner has: the folder below which requests get theirs, bytes of memory, bytes of files."""

    work: Path
    memory: int
    disk: int


def room(message: bytes) -> Room | None:
    """Read what a runner says when it is ready; None for anything else."""
    try:
        told = json.loads(message.removeprefix(READY))
        work, memory, disk = told["work"], told["memory"], told["disk"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sizes = all(type(each) is int and LEAST <= each <= MOST for each in (memory, disk))
    if not message.startswith(READY) or not sizes or not isinstance(work, str) or not WORK.fullmatch(work):
        return None
    return Room(Path(work), memory, disk)


class Seat:
    """One connected runner, and the place of one CLI at a time."""

    def __init__(self, pool: Pool, connection: socket.socket, uid: int) -> None:
        self.uid = uid
        self.connection = connection
        self.lost = False
        self.leaving = False
        self.room: Room | None = None
        self.folder = Folder(Path("/nowhere"))
        self.bounds = Bounds()
        self.clean = asyncio.Event()
        self.held = True
        """By a request, by a CLI that waits, or because it never was ready."""
        self.counts = False
        """Whether it was ready for requests once."""
        self._pool = pool
        self._sent = self._starting = False
        self._running: Running | None = None

    def prepare(self, bounds: Bounds) -> None:
        """Choose folder and bounds of the next run."""
        assert self.room, "only after it was ready"
        self.folder = Folder(self.room.work / secrets.token_hex(16))
        self.bounds = Bounds(bounds.pids, min(bounds.memory, self.room.memory), min(bounds.disk, self.room.disk))
        self._sent, self._starting, self._running = False, False, None

    def send(self, job: bytes, files: Sequence[int]) -> None:
        """Hand over a job with copies of these file descriptors; raises OSError."""
        self.clean.clear()
        self._sent = True
        socket.send_fds(self.connection, [job], list(files))

    async def start(self, command: Command) -> Running:
        """Have the runner make the folder and start a process in it; raises OSError."""
        within = {"bounds": asdict(self.bounds), "requests": 1, "gpus": command.gpu}
        within["files"] = parcels.listed(command.files)
        self._starting = True
        self._running = await self._pool.processes.start(command, _Parcelled(self, command.files), within)
        self._starting = False
        return self._running

    async def leave(self) -> None:
        """Wait until the runner is as it was before, or let it go."""
        if self._starting:
            # Whoever waited for the start was cancelled, or it failed: a job may be on its way still.
            self._pool.drop(self)
        if self._sent and not self.lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESET_SECONDS):
                    await self.clean.wait()
            if not self.clean.is_set():
                log.error("a runner does not become clean; it is let go", extra={"uid": self.uid})
                self._pool.drop(self)
        self._pool.back(self)

    def abandon(self) -> None:
        """Let go of what runs there: the runner is gone."""
        self.lost = True
        self.clean.set()
        if self._running:
            self._running.abandon()


class _Parcelled:
    """Sends a job with its files."""

    def __init__(self, seat: Seat, contents: Mapping[str, bytes]) -> None:
        self._seat, self._contents = seat, contents

    def send(self, job: bytes, files: Sequence[int]) -> None:
        with parcels.packed(self._contents) as parcel:
            self._seat.send(job, [*files, parcel])


class Pool:
    """Takes what runners connect below `folder`, of these uids, one of each; hands their seats to requests.

    `queue` requests may wait, for `seconds` at most. `spares` are the CLIs that wait in seats: a request comes first.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        uids: range,
        bounds: Bounds,
        queue: int,
        seconds: float,
        spares: Spares,
    ) -> None:
        self.processes = processes
        self.taken = 0
        self.on_first: Callable[[Seat], None] | None = None
        """Called in place of handing out the first seat; whoever is called gives it back."""
        self._folder, self._uids, self._bounds, self._queue, self._seconds = folder, uids, bounds, queue, seconds
        self._spares = spares
        self._seats: dict[int, Seat] = {}
        self._free: deque[Seat] = deque()
        self._waiters: deque[asyncio.Future[Seat]] = deque()
        self._listener, self._path = _listen(folder, len(uids))

    @property
    def waiting(self) -> int:
        """How many requests wait for a runner."""
        return len(self._waiters)

    @property
    def connected(self) -> int:
        """How many runners were ready for requests once, and are still there."""
        return sum(seat.counts for seat in self._seats.values())

    async def working(self) -> None:
        """Health check: raises when there is no runner."""
        if not self.connected:
            msg = f"no runner is connected to {self._folder}; see the logs of claude-runner-1 and the others"
            raise RuntimeError(msg)

    def open(self) -> None:
        """Take connections from now on; those that were made before wait."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def hand_over(self) -> None:
        """Give the runners to whoever listens there by now: those that are free at once, the others when they get free.

        The last free one stays for requests on connections that are still open.
        """
        self._stop_listening()
        self._spares.stop()
        for seat in [each for each in self._seats.values() if each is not (self._free[-1] if self._free else None)]:
            self._depart(seat)

    def close(self) -> None:
        """Let go of every runner."""
        self._stop_listening()
        for seat in list(self._seats.values()):
            self.drop(seat)

    @asynccontextmanager
    async def take(self, ask: Ask) -> AsyncIterator[tuple[Place, Spare | None]]:
        """Hold a runner; raises ApiError 429 when the queue is full or too slow, 503 where there is no runner."""
        spare = self._spares.take(ask)
        place = spare.place if spare else await self._wait()
        self.taken += 1
        try:
            yield place, spare
        finally:
            self.taken -= 1

    def reserve(self) -> Seat | None:
        """Return a free seat, if no request waits for one."""
        while self._free:
            seat = self._free.popleft()
            if not seat.lost:
                seat.held = True
                seat.prepare(self._bounds)
                return seat
        return None

    async def _wait(self) -> Seat:
        if seat := self.reserve():
            return seat
        # The CLI that waits in a seat makes room for a request that it does not serve.
        if self.waiting >= self._queue + self._spares.give_up():
            raise failures.busy() if self.connected else failures.no_runner()
        found: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._waiters.append(found)
        seconds = self._seconds if self.connected else min(self._seconds, ABSENT_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(found)
        except BaseException as error:
            if found.done() and not found.cancelled():
                self.back(found.result())
            if isinstance(error, TimeoutError):
                raise failures.busy() if self.connected else failures.no_runner() from error
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(found)

    def back(self, seat: Seat) -> None:
        """Take back a seat that is clean."""
        if seat.lost:
            return
        seat.counts = True
        if seat.leaving:
            self.drop(seat)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                seat.prepare(self._bounds)
                waiter.set_result(seat)
                return
        seat.held = False
        self._free.append(seat)
        self._spares.replenish()

    def drop(self, seat: Seat) -> None:
        """Let go of a runner; it ends what runs there, becomes clean and connects again."""
        if self._seats.pop(seat.uid, None) is seat:
            asyncio.get_running_loop().remove_reader(seat.connection)
            seat.connection.close()
        with contextlib.suppress(ValueError):
            self._free.remove(seat)
        seat.abandon()

    def _depart(self, seat: Seat) -> None:
        """Let a runner go as soon as it is free; a CLI that waits there is ended."""
        seat.leaving = True
        if not seat.held or not seat.room:
            self.drop(seat)
        else:
            self._spares.drop(seat)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        uid = CREDENTIALS.unpack(told)[1]
        if uid not in self._uids or uid == os.getuid() or uid in self._seats:
            if uid != os.getuid():  # ours only look whether somebody listens
                log.warning("a connection to the runners' socket was refused", extra={"uid": uid})
            connection.close()
            return
        seat = self._seats[uid] = Seat(self, connection, uid)
        asyncio.get_running_loop().add_reader(connection, self._hear, seat)

    def _hear(self, seat: Seat) -> None:
        try:
            message = seat.connection.recv(LONGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == LEAVING:
            self._depart(seat)
        elif (told := room(message)) is None or seat.clean.is_set():
            known = seat.room is not None
            log.log(logging.WARNING if message or known else logging.INFO, "a runner has left", extra={"uid": seat.uid})
            self.drop(seat)
        else:
            seat.clean.set()
            if seat.room is None:
                self._welcome(seat, told)

    def _welcome(self, seat: Seat, told: Room) -> None:
        seat.room = told
        log.info("a runner is ready", extra={"uid": seat.uid, "memory": told.memory, "disk": told.disk})
        if self.on_first is not None:
            first, self.on_first = self.on_first, None
            seat.prepare(self._bounds)
            first(seat)
        else:
            self.back(seat)

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)


def _listen(folder: Path, count: int) -> tuple[socket.socket, Path]:
    """Return a listening socket and its place; raises SettingsError."""
    path = folder / f"{secrets.token_hex(16)}{SUFFIX}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        for left in folder.glob(f"*{SUFFIX}"):
            _sweep(left)
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen(count)
    except OSError as error:
        listener.close()
        fault = f"cannot listen below {folder}: {reason(error)}; name a folder that uid {os.getuid()} may write to"
        raise SettingsError([f"CLAUDE_PROXY_RUNNERS: {fault}"]) from error
    return listener, path


def _sweep(left: Path) -> None:
    """Remove a socket that nobody listens at any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(left))
        except (ConnectionRefusedError, FileNotFoundError):
            left.unlink(missing_ok=True)
        except OSError:
            return
