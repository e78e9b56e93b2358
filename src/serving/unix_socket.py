"""Listens at a path: replaces what a dead process left there, refuses a living one, removes its own file at the end."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BACKLOG = 2048
"""Connections that wait while a worker is busy or being replaced; the kernel caps it at net.core.somaxconn."""
LONGEST = 107
"""Bytes of a path: sun_path of unix(7) without its end."""
MODE = 0o666
"""Whoever may enter the folder may connect; the folder's mode says who that is."""
CONNECT_SECONDS = 1.0


class BindError(Exception):
    """The address cannot be listened on; the text names it and says what to try."""


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Yield a socket that listens at `path`, whose file is removed at the end, if it is still ours. Raises BindError."""
    listener = bind(path)
    mine = _identity(path)
    try:
        yield listener
    finally:
        listener.close()
        _remove(path, mine)


def bind(path: str) -> socket.socket:
    """Return a socket that listens at `path`, in a folder that exists. Raises BindError."""
    if len(os.fsencode(path)) > LONGEST:
        msg = f"{path}: too long for a unix socket, the most are {LONGEST} bytes; choose a shorter one with --socket"
        raise BindError(msg)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path):
            _clear(path)
            listener.bind(path)
            Path(path).chmod(MODE)
            listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        msg = f"{path}: {_explain(error, path)}"
        raise BindError(msg) from error
    except BindError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep others who bind in the folder away: between two of their steps ours would look like a dead one's."""
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _clear(path: str) -> None:
    """Remove the socket of a process that is gone. Raises BindError if it lives, or if it is no socket."""
    place = Path(path)
    if not place.is_socket():
        if place.exists() or place.is_symlink():
            msg = f"{path}: is there and no socket; move it away or choose another path with --socket"
            raise BindError(msg)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(CONNECT_SECONDS)
        try:
            attempt.connect(path)
        except ConnectionRefusedError:
            place.unlink()
            return
        except (TimeoutError, BlockingIOError):
            who = "a process that does not answer"  # its queue of connections is full
        else:
            who = _peer(attempt)
    msg = f"{path}: {who} listens there; stop it or choose another path with --socket"
    raise BindError(msg)


def _peer(connection: socket.socket) -> str:
    """Return who listens at the other end, as its process is called here."""
    kind = struct.Struct("3i")
    pid, _, _ = kind.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, kind.size))
    if not pid:
        return "a process of another container"
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()})"
    except OSError:
        return f"process {pid}"


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    # A file system may give the number of a removed file to the next one: the time tells them apart.
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _remove(path: str, mine: tuple[int, int, int] | None) -> None:
    try:
        with _locked(path):
            if mine and _identity(path) == mine:
                Path(path).unlink()
    except OSError:
        return  # what is left refuses connections, and the next start replaces it


def _explain(error: OSError, path: str) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no folder {Path(path).parent}; make it or choose another path with --socket"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "not allowed to make a socket there; choose another path with --socket"
    return (error.strerror or str(error)).lower()
