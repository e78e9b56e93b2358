"""What is in the layers of an OCI image layout: tar archives, compressed or not, read as streams."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from shipyard import console, machine

_STATE = "layers.json"
_KEPT = 400  # layers whose sizes are remembered; an entry is about 90 bytes


@dataclass(frozen=True)
class Entry:
    """One member of a layer. ``size`` in bytes, ``mtime`` in seconds since 1970; ``content`` is a file's SHA-256."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime: float
    link: str
    size: int
    content: str


def entries(blob: Path) -> Iterator[tuple[str, Entry]]:
    """Every member by its path without a leading slash, in the archive's order. Raises tarfile.TarError for a damaged one."""
    with tarfile.open(blob, mode="r|*") as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.isfile() else None
            content = hashlib.file_digest(handle, "sha256").hexdigest() if handle else ""  # type: ignore[arg-type]
            yield (
                member.name,
                Entry(
                    member.type.decode(),
                    member.mode,
                    (member.uid, member.gid),
                    float(member.mtime),
                    member.linkname,
                    member.size,
                    content,
                ),
            )


def size(blob: Path) -> int:
    """Bytes of a layer's files, uncompressed; remembered by the layer's digest."""
    known = machine.read(_STATE).get(blob.name)
    if isinstance(known, int):
        return known
    total = sum(size for _, size in _files(blob))
    machine.write(_STATE, dict([*machine.read(_STATE).items(), (blob.name, total)][-_KEPT:]))
    return total


def names(blobs: list[Path]) -> list[str]:
    """The paths of all files of some layers."""
    return [name for blob in blobs for name, _ in _files(blob)]


def biggest(blobs: list[Path], count: int = 10) -> str:
    """The biggest files of some layers, one per line, largest first."""
    found = nlargest(count, (file for blob in blobs for file in _files(blob)), key=lambda file: file[1])
    return "\n".join(f"    {console.megabytes(size):>10}  /{name}" for name, size in found)


def _files(blob: Path) -> Iterator[tuple[str, int]]:
    with tarfile.open(blob, mode="r|*") as archive:
        yield from ((member.name, member.size) for member in archive if member.isfile())
