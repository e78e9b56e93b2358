"""The files of a request on their way to a runner: their contents in one file in memory, names and sizes in the job.

They can be many megabytes, more than one message of a socket takes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PIECE = 1 << 20
"""Bytes that are read and written at a time."""
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@contextlib.contextmanager
def packed(files: Mapping[str, bytes]) -> Iterator[int]:
    """Yield a file descriptor with these contents, one after the other, which nobody can change; raises OSError."""
    number = os.memfd_create("parcel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for content in files.values():
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(number, rest) :]
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, SEALS)
        yield number
    finally:
        os.close(number)


def listed(files: Mapping[str, bytes]) -> list[tuple[str, int]]:
    """Return name and size of each file, in the order of their contents."""
    return [(name, len(content)) for name, content in files.items()]


def unpack(number: int, names: Sequence[Sequence[str | int]], root: Path) -> None:
    """Write the files of a parcel into a folder; raises OSError."""
    offset = 0
    for name, size in names:
        end = offset + int(size)
        with (root / str(name)).open("xb") as file:
            while offset < end:
                content = os.pread(number, min(PIECE, end - offset), offset)
                if not content:
                    msg = "a parcel is shorter than its list"
                    raise OSError(msg)
                file.write(content)
                offset += len(content)
