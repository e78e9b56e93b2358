"""Takes all that it gets of one thing that the kernel counts, and holds it. A file of the working directory says what it got."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import time
from pathlib import Path

WORKERS = 4


TAKEN = "taken"


def take(kind, most, held):
    """Several processes take one kind of thing until they are refused, so many seconds at most; then they hold it."""
    told = Path(TAKEN)
    told.write_bytes(b" " * 4096)  # room for what is said when there is none left
    begin = time.monotonic()
    ends = []
    for number in range(WORKERS):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            found, refused = TAKERS[kind](number, begin + float(most))
            count = found if isinstance(found, int) else len(found)
            os.write(writer, f"{kind}: {count}, refused: {refused}; ".encode())
            os.close(writer)
            time.sleep(float(held))
            os._exit(0)
        os.close(writer)
        ends.append(reader)
    said = b"".join(os.read(each, 200) for each in ends)
    with told.open("r+b") as file:
        file.write(said)
    time.sleep(float(held))
    return said.decode()


def _until_refused(step, end, most=1 << 24):
    held = []
    while time.monotonic() < end and len(held) < most:
        try:
            held.append(step(len(held)))
        except OSError as error:
            return held, error.strerror
    return held, "nobody"


def epoll_watches(_number, end):
    """Every one of many descriptors watched by every one of many instances: their product is what the kernel counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    events, polls, count = [], [], 0
    while len(events) < 1900 and (event := libc.eventfd(0, 0)) >= 0:
        events.append(event)
    with contextlib.suppress(OSError):
        while len(polls) < 1900:
            polls.append(select.epoll())
    KEPT.append((events, polls))
    for poll in polls:
        for event in events:
            if time.monotonic() > end:
                return count, "nobody"
            try:
                poll.register(event, select.EPOLLIN)
            except OSError as error:
                return count, error.strerror
            count += 1
    return count, "its files"


def descriptors_in_flight(_number, end):
    """Descriptors in messages that nobody receives."""
    pairs = []

    def send(_count):
        if not pairs or len(pairs[-1]) > 2:
            pairs.append(list(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)))
        try:
            return socket.send_fds(pairs[-1][0], [b"x"], [0] * 250, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pairs.append(list(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)))
            return 0

    KEPT.append(pairs)
    return _until_refused(send, end)


def udp_ports(number, end):
    """Every port that connections and datagrams are given, a part for each process."""

    def bind(count):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", 28_000 + number * 8_000 + count))
        return made

    return _until_refused(bind, end, 8_000)


def datagrams(_number, end):
    """Datagrams to itself that nobody receives, which have one account for the whole host."""

    def fill(_count):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        made.connect(made.getsockname())
        with contextlib.suppress(BlockingIOError):
            for _ in range(200):
                made.send(b"x" * 1000, socket.MSG_DONTWAIT)
        return made

    return _until_refused(fill, end)


def stream_buffers(_number, end):
    """Pairs of sockets, full of what nobody reads."""

    def fill(_count):
        pair = socket.socketpair()
        pair[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                pair[0].send(b"x" * 65_536)
        return pair

    return _until_refused(fill, end)


def files_without_a_name(number, end):
    """Bytes in files that were removed and are still open."""
    file = os.open(f"hidden-{number}", os.O_RDWR | os.O_CREAT)
    Path(f"hidden-{number}").unlink()
    files = [file]

    def write(_count):
        try:
            return os.write(files[-1], b"x" * (1 << 20))
        except OSError as error:
            if error.errno != 27:  # EFBIG: the next file
                raise
            files.append(os.open(f"hidden-{number}-{len(files)}", os.O_RDWR | os.O_CREAT))
            Path(f"hidden-{number}-{len(files) - 1}").unlink()
            return 0

    KEPT.append(files)
    return _until_refused(write, end)


def inodes(number, end):
    """Empty files without end."""

    def make(count):
        os.close(os.open(f"empty-{number}-{count}", os.O_WRONLY | os.O_CREAT))

    return _until_refused(make, end)


def pipes(_number, end):
    """Pipes, each as large as it can be."""

    def make(_count):
        ends = os.pipe()
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(ends[1], 1031, 1 << 20)  # F_SETPIPE_SZ
        os.set_blocking(ends[1], False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(ends[1], b"x" * 65_536)
        return ends

    return _until_refused(make, end)


def signals(_number, end):
    """Signals that wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    return _until_refused(lambda _count: os.kill(os.getpid(), signal.SIGRTMIN), end)


def locked_memory(_number, end):
    """Memory that may not be swapped out."""
    libc = ctypes.CDLL(None, use_errno=True)

    def lock(_count):
        memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), ctypes.c_size_t(1 << 20)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return memory

    return _until_refused(lock, end)


def file_locks(number, end):
    """Locks of single bytes of one file, each of which is an entry of the kernel's."""
    file = open(f"locked-{number}", "wb")  # noqa: PTH123, SIM115
    KEPT.append(file)
    return _until_refused(lambda count: fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * count), end)


def page_tables(_number, end):
    """One page of memory in each of very many places, with a table for each of them."""

    def touch(_count):
        memory = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
        for place in range(0, 1 << 30, 2 << 20):
            memory[place] = 1
        return memory

    return _until_refused(touch, end)


def names(number, end):
    """Names that the kernel remembers: looked for, and not there."""

    def look(count):
        with contextlib.suppress(FileNotFoundError):
            Path(f"no-{number}-{count}-" + "x" * 200).stat()

    return _until_refused(look, end)


def processors(_number, end):
    """All the time that there is."""
    while time.monotonic() < end:
        pass
    return 0, "nobody"


KEPT = []
TAKERS = {
    name: function
    for name, function in list(globals().items())
    if name
    in (
        *("epoll_watches", "descriptors_in_flight", "udp_ports", "datagrams", "stream_buffers", "files_without_a_name"),
        *("inodes", "pipes", "signals", "locked_memory", "file_locks", "page_tables", "names", "processors"),
    )
}
